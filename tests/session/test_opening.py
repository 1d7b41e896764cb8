"""A session opens on what was meant, or says what is wrong; no form of a policy or backbone is ignored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.backbone import BackboneConfig
from hermes.errors import SettingError
from hermes.policies.fifo import Fifo
from hermes.policies.full import Full
from hermes.policy import MemoryPolicy
from hermes.session.lockstep import BatchedSession
from hermes.session.opening import open_session
from hermes.session.session import StreamSession
from tests.support.families import tiny

pytestmark = pytest.mark.model


@dataclass
class Mine(MemoryPolicy):
    budget: int = 30

    def compress(self, memory: Any, observe: Any) -> Any:
        return {}


class Plain(MemoryPolicy):
    """No dataclass, and so without settings."""

    budget = 20

    def compress(self, memory: Any, observe: Any) -> Any:
        return {}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "with space=1.yaml"
    path.write_text("name: fifo\nalign: frame\nbudget: 50\n")
    return path


def test_every_form_of_a_policy_is_that_policy_with_that_budget(file: Path) -> None:
    backbone = tiny("llava_onevision")
    forms = ["fifo", "hermes.policies.fifo:Fifo", {"name": "fifo"}, {"name": "fifo", "budget": "9"}]
    forms += [file, str(file), Fifo, Fifo(budget=3), {"defaults": "fifo"}]
    for form in forms:
        for budget in (64, np.int64(64), 64.0):
            policy = open_session(backbone, form, budget).policy
            assert (type(policy), policy.budget) == (Fifo, 64)
        assert type(open_session(backbone, form).policy) is Fifo
    assert open_session(backbone, file).policy == Fifo(budget=50, align="frame")
    assert open_session(backbone, {"name": "fifo", "budget": 40}).policy == Fifo(budget=40)
    assert open_session(backbone, Mine, 7).policy == Mine(7)
    assert open_session(backbone, "fifo", overrides=["policy.budget=8"]).policy.budget == 8


@pytest.mark.parametrize(
    "policy",
    [
        None,
        [],
        ["fifo"],
        {},
        {"budget": 64},
        {"name": "fiffo"},
        {"name": "fifo", "budgt": 64},
        {"name": "fifo", "budget": -1},
        {"name": "fifo", "budget": None},
        3,
        True,
        b"fifo",
        "",
        "fiffo",
        Path("fifo"),
        Path("nowhere.yaml"),
        "nowhere.yaml",
        int,
        MemoryPolicy,
        len,
    ],
    ids=str,
)
def test_what_is_no_policy_is_refused_by_name(policy: Any) -> None:
    with pytest.raises(SettingError, match=r"^policy"):
        open_session(tiny("llava_onevision"), policy)


@pytest.mark.parametrize("budget", [0, -1, "64", 1.5, True, float("nan"), [64]])
@pytest.mark.parametrize("policy", ["fifo", {"name": "fifo"}, Fifo, Fifo(), Mine])
def test_a_budget_is_checked_in_every_form(policy: Any, budget: Any) -> None:
    with pytest.raises(SettingError, match=r"^policy\.budget: got"):
        open_session(tiny("llava_onevision"), policy, budget)


def test_no_setting_of_what_is_given_ready_is_ignored() -> None:
    backbone = tiny("llava_onevision")
    for overrides, name in (
        (["policy.align=frame"], "policy.align"),
        (["policy.budget=3"], "policy.budget"),
        (["backbone.device=cuda:7"], "backbone.device"),
    ):
        with pytest.raises(SettingError, match=name.replace(".", r"\.")):
            open_session(backbone, Fifo(), overrides=overrides)
    with pytest.raises(SettingError, match="one budget"):
        open_session(backbone, "fifo", 64, overrides=["policy.budget=3"])
    with pytest.raises(SettingError, match="no such setting"):
        open_session(backbone, Plain(), 64)
    changed = Fifo()
    changed.budget = "64"
    for opened in (open_session, StreamSession):
        with pytest.raises(SettingError, match=r"policy\.budget"):
            opened(backbone, changed)


def test_every_form_of_a_backbone(tmp_path: Path) -> None:
    config = BackboneConfig(family="tiny_llava_onevision")
    file = tmp_path / "mine.yaml"
    file.write_text("family: tiny_llava_onevision\nseed: 3\n")
    for form in ("tiny_llava_onevision", {"family": "tiny_llava_onevision"}, config, file, str(file)):
        assert type(open_session(form, "fifo").backbone).__name__ == "TinyLlavaOnevision"
    assert open_session(file).backbone.config.seed == 3
    for wrong in (None, [], 3, Fifo(), BackboneConfig, Path("nowhere"), {"famly": "x"}, {"family": "x"}):
        with pytest.raises(SettingError, match=r"^backbone"):
            open_session(wrong, "fifo")


def test_sessions_built_from_their_parts_are_as_strict() -> None:
    backbone = tiny("llava_onevision")
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("video.fps", {"fps": 0}),
        ("video.fps", {"fps": float("inf")}),
        ("stream.chunk_frames", {"chunk_frames": 0}),
        ("seed", {"seed": -1}),
    ]
    for name, options in wrong:
        with pytest.raises(SettingError, match=rf"^{name}: "):
            StreamSession(backbone, Full(), **options)
        with pytest.raises(SettingError, match=rf"^{name}: "):
            BatchedSession(backbone, Full(), 2, **options)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_a_layout_whose_positions_go_back_in_time_is_for_policies_that_keep_all(family: str) -> None:
    backbone = tiny(family, "native")
    StreamSession(backbone, Full())
    if backbone.native_evicts:
        StreamSession(backbone, Fifo(budget=64))
        return
    with pytest.raises(SettingError, match=r"backbone\.layout: got 'native'; allowed: stream"):
        StreamSession(backbone, Fifo(budget=64))
