"""The README's Python and the guide's examples run as printed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hermes.config import experiment_extras
from hermes.samples import CLIP

ROOT = Path(__file__).parent.parent


def blocks(path: str) -> list[str]:
    text = (ROOT / path).read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.model
def test_five_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = blocks("README.md")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 6
    exec(compile(code, "README.md", "exec"), {})
    lengths = capsys.readouterr().out.strip().splitlines()[-1]
    assert set(map(int, re.findall(r"\d+", lengths))) == {73}  # a budget of 64 and a prefix of 9


@pytest.mark.model
def test_own_policy(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text(blocks("README.md")[1])
    command = [sys.executable, "-m", "hermes", "ask", "sample", "Which place came first?", "--json"]
    options = ["policy=my_module.LoudValues", "policy.budget=64", "generation.max_new_tokens=2"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"policy": "my_module.LoudValues"' in done.stdout


@pytest.mark.model
def test_extending_guide(tmp_path: Path) -> None:
    part, probe, *_ = blocks("docs/extending.md")
    (tmp_path / "my_parts.py").write_text(part)
    (tmp_path / "my_probes.py").write_text(probe)
    script = """
import hermes, sys
sys.path.append(".")
from my_probes import NewestFrame
overrides = ["policy.tiers.working.scorer=my_parts.ValueNorm", "generation.max_new_tokens=2", "video.fps=2"]
with hermes.open_session("tiny_llava_onevision", budget=32, overrides=overrides) as session:
    session.feed(hermes.open_source(CLIP, fps=2))
    probe = NewestFrame()
    session.ask("What now?", probe=probe)
    assert sorted(probe.result()) == list(range(10))
    assert all(0 < share <= 1 for share in probe.result().values())
"""
    script = script.replace("CLIP", repr(str(CLIP)))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_rivals_is_that_of_the_page():
    spec = importlib.util.spec_from_file_location("rivals", ROOT / "tools" / "rivals.py")
    rivals = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rivals)
    page = (ROOT / "docs" / "experiments" / "rivals" / "table.md").read_text()
    start, end = rivals.MARKS
    shown = (ROOT / "README.md").read_text().partition(start)[2].partition(end)[0]
    assert shown == rivals.table(page)
    methods = set(re.findall(r"^\| `(.+?)` ", shown, flags=re.MULTILINE))
    # Every method that the experiment names, but for the one without a budget.
    named = experiment_extras(["experiment=rivals"])
    assert methods == set(named.cells)
    assert set(named.besides) == {"full"}
