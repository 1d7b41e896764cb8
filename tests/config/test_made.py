"""Settings are checked however an object is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.backbone import BackboneConfig
from hermes.config import Part, Settings, build, check, setting, settings_of
from hermes.config.schema import elements
from hermes.decoding.generation import GenerationConfig
from hermes.errors import SettingError
from hermes.evaluation.running.settings import EvalConfig, TrainerConfig
from hermes.memory import MemoryConfig
from hermes.parts import Blend, Recency
from hermes.policies.fifo import Fifo
from hermes.policies.hermes import Hermes
from hermes.policy import MemoryPolicy, Store, Tier, check_policy
from hermes.registry import KINDS, registry
from hermes.session.config import RunConfig, StreamConfig
from hermes.training.settings import TrainConfig
from hermes.video import Link, VideoConfig


@dataclass
class Twenty(MemoryPolicy):
    """A policy of a user, which calls nothing of ours."""

    budget: int = setting(10, ge=5)
    pace: float = 0.5
    where: Path | None = None
    anything: object = None

    def __post_init__(self) -> None:
        self.half = self.budget // 2

    def compress(self, memory: Any, observe: Any) -> Any:
        return {}


@dataclass
class Group(Settings):
    names: list[str] = setting([])
    size: tuple[int, int] = setting((1, 1), ge=1)
    tier: Tier = setting(Tier(share=1.0, scorer=Recency()))


WRONG: list[tuple[str, Callable[[], object]]] = [
    ("budget", lambda: Fifo(budget="64")),
    ("budget", lambda: Fifo("64")),
    ("budget", lambda: Fifo(budget=-1)),
    ("budget", lambda: Fifo(budget=True)),
    ("budget", lambda: Fifo(budget=64.5)),
    ("budget", lambda: Fifo(budget=None)),
    ("budget", lambda: replace(Fifo(), budget=0)),
    ("align", lambda: Fifo(align="tokens")),
    ("reindex", lambda: Fifo(reindex=Recency())),
    ("share", lambda: Tier(share=2, scorer=Recency())),
    ("scorer", lambda: Tier(share=1, scorer=None)),
    ("scorer", lambda: Tier(share=1, scorer="recncy")),
    ("tiers", lambda: Hermes(tiers=None)),
    (r"tiers\.a", lambda: Hermes(tiers={"a": 3})),
    (r"tiers\.a\.share", lambda: Hermes(tiers={"a": {"share": 2, "scorer": "recency"}})),
    ("weight", lambda: Blend(weight=-1)),
    ("budget", lambda: Twenty(budget=4)),
    ("budget", lambda: Twenty("ten")),
    ("pace", lambda: replace(Twenty(), pace=float("nan"))),
    ("where", lambda: Twenty(where=3)),
    ("fps", lambda: VideoConfig(fps=0)),
    ("fps", lambda: VideoConfig(fps=float("inf"))),
    ("chunk_frames", lambda: StreamConfig("16")),
    ("max_new_tokens", lambda: GenerationConfig(max_new_tokens=0)),
    ("do_sample", lambda: GenerationConfig(do_sample="yes")),
    ("do_sample", lambda: GenerationConfig(do_sample=1)),
    ("clock", lambda: MemoryConfig(clock="mine")),
    ("loss", lambda: Link(loss=2)),
    ("late", lambda: Link(late="never")),
    ("dtype", lambda: BackboneConfig(dtype="float8")),
    ("place", lambda: Store(place="moon")),
    ("precision", lambda: TrainerConfig(precision=3.5)),
    (r"names\[1\]", lambda: Group(names=["a", 2])),
    ("names", lambda: Group(names="ab")),
    (r"size\[0\]", lambda: Group(size=(0, 1))),
    ("size", lambda: Group(size=(1, 1, 1))),
    (r"tier\.share", lambda: Group(tier={"share": 5, "scorer": "recency"})),
]


@pytest.mark.parametrize(("where", "make"), WRONG)
def test_a_wrong_value_is_refused_by_name(where: str, make: Callable[[], object]) -> None:
    with pytest.raises(SettingError, match=rf"^{where}: got .*; allowed: "):
        make()


def test_what_is_right_is_taken_and_has_the_type_that_build_gives() -> None:
    built = build(MemoryPolicy, {"name": "fifo", "budget": 64})
    for given in (64, 64.0, np.int64(64), np.float32(64)):
        made = Fifo(budget=given)
        assert made == built
        assert type(made.budget) is int
    assert Twenty(7, 1, where="a/b") == Twenty(budget=7, pace=1.0, where=Path("a/b"))
    assert Twenty(7).half == 3
    # A name or a mapping may stand for a part here, too.
    assert Tier(share=1, scorer="recency") == Tier(share=1.0, scorer=Recency())
    assert Group(tier={"share": 1, "scorer": {"name": "recency", "k": 3}}).tier.scorer == Recency(k=3)
    # What is no setting's type is the policy's own business.
    anything = object()
    assert Twenty(anything=anything).anything is anything
    with pytest.raises(TypeError, match="budgt"):
        Fifo(budgt=3)


def test_text_is_a_number_in_files_and_nowhere_else() -> None:
    assert build(Twenty, {"budget": "64"}).budget == 64
    with pytest.raises(SettingError):
        check(int, "64")


def test_every_part_that_comes_with_hermes_checks_its_numbers() -> None:
    parts = [registry(kind).get(name) for kind in sorted(KINDS) for name in registry(kind).names()]
    classes = [part for part in parts if isinstance(part, type) and issubclass(part, Part)]
    assert len(classes) > 40
    assert {type(cls) for cls in classes} == {type(Part)}


def groups_of(cls: type) -> Iterator[type]:
    """The groups of settings within a group, and within those."""
    for one in settings_of(cls).values():
        core, _, args = elements(one.type)
        for hint in (core, *args):
            if is_dataclass(hint) and isinstance(hint, type):
                yield hint
                yield from groups_of(hint)


@pytest.mark.parametrize("root", [EvalConfig, RunConfig, TrainConfig])
def test_every_group_of_settings_checks_its_numbers(root: type) -> None:
    groups = {root, *groups_of(root)}
    assert len(groups) > 3
    assert [group for group in groups if not issubclass(group, Settings)] == []


def test_a_value_changed_after_its_object_was_made_is_found() -> None:
    policy, deep = Fifo(), Hermes()
    policy.budget = -3
    deep.tiers["working"].share = 5
    with pytest.raises(SettingError, match=r"policy\.budget"):
        check_policy(policy)
    with pytest.raises(SettingError, match=r"policy\.tiers\.working\.share"):
        check_policy(deep)
    with pytest.raises(SettingError, match=r"policy\.tiers\.working\.share"):
        build(MemoryPolicy, deep, "policy")
