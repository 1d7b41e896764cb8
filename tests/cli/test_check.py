"""`hermes check`: a backbone that keeps its contract, and one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import hermes

pytestmark = pytest.mark.model

_BROKEN = """
from hermes.backbones.tiny import TinyLlavaOnevision

class Mine(TinyLlavaOnevision):
    def tokens_per_frame(self, height, width):
        return 1
"""


def test_every_clause_has_a_line_and_a_broken_one_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = hermes("check", "backbone=tiny_llava_onevision")
    assert kept.code == 0
    lines = kept.out.splitlines()
    assert lines[0].split() == ["kept", "provenance", "covers", "every", "token"]
    assert any(line.startswith("skipped") and "checkpoint" in line for line in lines)
    (tmp_path / "broken_family.py").write_text(_BROKEN)
    broken = hermes("check", "backbone.family=broken_family.Mine", 'backbone.checkpoint=""')
    assert broken.code == 1
    assert "broken" in broken.out
    assert "tokens_per_frame says 1" in " ".join(broken.out.split())
    assert hermes("check", "a word").code != 0
