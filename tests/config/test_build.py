"""Settings: building parts from specifications, and what the errors say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hermes.config import build, config_hash, resolved_yaml, setting, settings_table, to_dict
from hermes.errors import HermesError, InputError
from tests.config.cases import (
    Chance,
    Mixed,
    Newest,
    Policy,
    Recency,
    Smoothing,
    Tier,
    Tiered,
    Video,
    error,
)

# build


def test_build_defaults_and_specs() -> None:
    assert build(Tiered) == Tiered()
    assert build(Policy, "t_newest") == Newest()
    assert build(Policy, {"name": "t_newest", "budget": "7"}) == Newest(7)
    assert build(Policy, "tests.config.cases.Newest") == Newest()
    assert build(Newest, {"budget": 1e3}) == Newest(1000)
    ready = Newest(3)
    assert build(Policy, ready) is ready
    tier = build(
        Tier, {"share": 1, "scorer": {"name": "t_mixed", "scorers": ["t_chance", {"name": "t_recency"}]}}
    )
    assert tier == Tier(1.0, Mixed([Chance(), Recency()]))


def test_mapping_is_complete_unless_it_edits_a_default() -> None:
    built = build(Tiered, {"tiers": {"all": {"share": 1}}, "smoothing": {"align": "identity"}})
    assert list(built.tiers) == ["all"]
    assert built.smoothing == Smoothing(0.3, "identity")
    assert build(Tiered, {"smoothing": {"deep": {"b": 2}}}).smoothing.deep == {"b": 2.0}
    # Without a name: the default part, edited; with a name: that part from its class's defaults.
    assert build(Tier, {"share": 1, "scorer": {"k": 3}}).scorer == Recency(3)
    assert Tiered().tiers["sensory"].scorer is not Tiered().tiers["sensory"].scorer


BAD = {
    "type": (
        Tiered,
        {"budget": "4k"},
        "policy.budget: got '4k'; allowed: a whole number of at least 1",
    ),
    "fraction": (Tiered, {"budget": 4.5}, "policy.budget: got 4.5; allowed: a whole number of at least 1"),
    "bool for int": (Tiered, {"budget": True}, "policy.budget: got True; allowed: a whole number"),
    "bound": (Tiered, {"budget": 0}, "policy.budget: got 0; allowed: a whole number of at least 1"),
    "nan": (Tiered, {"smoothing": {"lam": math.nan}}, "policy.smoothing.lam: got nan; allowed: a number of"),
    "null": (Tiered, {"budget": None}, "policy.budget: got None; allowed: a whole number"),
    "text": (Tiered, {"prompt": 123}, "policy.prompt: got 123; allowed: text. Put the text in quotes"),
    "nested": (
        Tiered,
        {"tiers": {"sensory": {"share": "lots"}}},
        "policy.tiers.sensory.share: got 'lots'; allowed: a number from 0 to 1",
    ),
    "part's setting": (
        Tiered,
        {"tiers": {"sensory": {"share": 0.1, "scorer": {"name": "t_recency", "k": -1}}}},
        "policy.tiers.sensory.scorer.k: got -1; allowed: a number above 0",
    ),
    "in a list": (
        Mixed,
        {"scorers": ["t_chance", {"name": "t_recency", "q": 1}]},
        "policy.scorers[1].q: got 1; allowed: the settings k. There is no setting 'q'.",
    ),
    "in a mapping": (
        Mixed,
        {"weights": {"a": -1}},
        "policy.weights.a: got -1; allowed: a number of at least 0",
    ),
    "literal": (
        Tiered,
        {"smoothing": {"align": "indx"}},
        "policy.smoothing.align: got 'indx'; allowed: one of index, identity",
    ),
    "unknown": (
        Tiered,
        {"bugdet": 1},
        "policy.bugdet: got 1; allowed: the settings budget, tiers, smoothing, prompt. "
        "There is no setting 'bugdet'. Did you mean 'budget'?",
    ),
    "required": (
        Tiered,
        {"tiers": {"x": {}}},
        "policy.tiers.x.share: got None; allowed: a number from 0 to 1. This setting is required.",
    ),
    "unknown part": (
        Tiered,
        {"tiers": {"x": {"share": 1, "scorer": "t_recncy"}}},
        "policy.tiers.x.scorer: got 't_recncy'; allowed: ",
    ),
    "nearest part": (Tier, {"share": 1, "scorer": "t_recncy"}, "Did you mean 't_recency'?"),
    "no name": (Mixed, {"scorers": [{"k": 3}]}, "policy.scorers[0]: got {'k': 3}; allowed: a scorer ("),
    "another kind": (
        Tier,
        {"share": 1, "scorer": "tests.config.cases.Newest"},
        "is not a subclass of Scorer.",
    ),
    "instance of another kind": (Tier, {"share": 1, "scorer": Newest()}, "policy.scorer: got Newest("),
    "list": (Mixed, {"scorers": 3}, "policy.scorers: got 3; allowed: a list, each a scorer ("),
    "tuple": (
        Video,
        {"size": [1]},
        "policy.size: got [1]; allowed: a list of 2: a whole number, a whole number",
    ),
    "mapping": (
        Tiered,
        {"tiers": [1]},
        "policy.tiers: got [1]; allowed: a mapping, each value a mapping with",
    ),
    "post_init": (
        Tiered,
        {"tiers": {"a": {"share": 1}, "b": {"share": 1}}},
        "policy.tiers: got [1.0, 1.0]; allowed: shares that add up to 1",
    ),
}


@pytest.mark.parametrize(("cls", "spec", "expected"), BAD.values(), ids=BAD.keys())
def test_build_errors(cls: type, spec: dict[str, Any], expected: str) -> None:
    assert expected in error(lambda: build(cls, spec, "policy"))


class Pace(Enum):
    SLOW = 1
    fast = 2


@dataclass
class Leaves:
    flag: bool = False
    pace: Pace = Pace.SLOW
    path: Path | None = None
    either: int | str = 1
    scale: float | Literal["auto"] = "auto"
    pairs: tuple[tuple[int, float], ...] = ()
    layers: dict[int, float] = setting({})
    names: list[Literal["a", "b"]] = setting([])
    step: int = setting(1, choices=(1, 2, 4))
    any: Any = None


GOOD: dict[str, list[tuple[Any, object]]] = {
    "flag": [(True, True), ("false", False)],
    "pace": [("slow", Pace.SLOW), ("fast", Pace.fast), (Pace.fast, Pace.fast)],
    "path": [("a/b", Path("a/b")), (None, None)],
    "either": [("4", "4"), (4, 4)],
    "scale": [(2, 2.0), ("auto", "auto"), ("1e-3", 1e-3)],
    "pairs": [([[1, 2], [3, 4]], ((1, 2.0), (3, 4.0)))],
    "layers": [({"3": 1}, {3: 1.0})],
    "names": [(["a", "b"], ["a", "b"])],
    "step": [(4, 4)],
    "any": [({"a": [1, None]}, {"a": [1, None]})],
}


@pytest.mark.parametrize(("name", "value", "expected"), [(k, *pair) for k, v in GOOD.items() for pair in v])
def test_leaf_types(name: str, value: object, expected: object) -> None:
    built = build(Leaves, {name: value})
    assert getattr(built, name) == expected
    assert type(getattr(built, name)) is type(expected)
    assert build(Leaves, json.loads(json.dumps(to_dict(built)))) == built


REFUSED = {
    "flag": (2, "true or false"),
    "pace": ("medium", "one of SLOW, fast"),
    "either": ([1], "a whole number or text"),
    "scale": ("big", "a number or one of auto"),
    "pairs": ([[1]], "a list of 2: a whole number, a number"),
    "layers": ({"x": 1}, "a whole number"),
    "names": (["c"], "one of a, b"),
    "step": (3, "one of 1, 2, 4"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_leaf_refusals(name: str) -> None:
    value, allowed = REFUSED[name]
    text = error(lambda: build(Leaves, {name: value}))
    assert text.startswith(name)
    assert f"allowed: {allowed}" in text


def test_faults_of_a_class_are_named() -> None:
    class Forgotten(Recency):
        window: int = 4

    @dataclass
    class Named(Recency):
        name: str = "x"

    @dataclass
    class Odd:
        call: Callable[[], int] | None = None

    with pytest.raises(HermesError, match="declares window: decorate it with @dataclass"):
        build(Forgotten)
    with pytest.raises(HermesError, match="'name', which chooses the part"):
        build(Named)
    with pytest.raises(HermesError, match="cannot be the type of a setting"):
        build(Odd, {"call": 3})
    with pytest.raises(InputError, match="a setting cannot hold"):
        to_dict(Odd(call=lambda: 1))


def test_value_error_of_a_class_names_the_place() -> None:
    @dataclass
    class Picky:
        n: int = 1

        def __post_init__(self) -> None:
            if self.n > 2:
                raise ValueError("n is too large")

    assert error(lambda: build(Picky, {"n": 3}, "a.b")) == "a.b: n is too large"


# to_dict, YAML, hash, table


@given(
    st.builds(
        Tiered,
        budget=st.integers(1, 10**9),
        prompt=st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"))).filter(
            lambda s: "${" not in s
        ),
        smoothing=st.builds(Smoothing, lam=st.floats(0, 0.99), align=st.sampled_from(["index", "identity"])),
        tiers=st.dictionaries(
            st.text("abc", min_size=1),
            st.builds(
                Tier, share=st.floats(0, 0.2), scorer=st.builds(Chance, seed=st.integers(-(2**63), 2**63 - 1))
            ),
            max_size=4,
        ),
    )
)
def test_round_trip(policy: Tiered) -> None:
    assert build(Policy, to_dict(policy)) == policy
    assert build(Policy, json.loads(json.dumps(to_dict(policy)))) == policy
    assert build(Policy, OmegaConf.to_container(OmegaConf.create(resolved_yaml(policy)))) == policy


def test_to_dict_names_parts_and_yaml_keeps_order() -> None:
    assert to_dict(Tier(0.5, Recency(3))) == {"share": 0.5, "scorer": {"name": "t_recency", "k": 3}}
    assert resolved_yaml(Newest()) == "name: t_newest\nbudget: 4000\n"
    assert to_dict(Tiered())["tiers"]["deep"]["scorer"]["name"] == "t_chance"


def test_hash_depends_on_content_and_on_the_order_of_tiers() -> None:
    one, two = Tier(0.1), Tier(0.2)
    base = config_hash(Tiered(tiers={"a": one, "b": two}))
    assert base == config_hash(Tiered(tiers={"a": Tier(0.1), "b": Tier(0.2)}))
    assert len(base) == 16
    others = [Tiered(tiers={"b": two, "a": one}), Tiered(tiers={"a": one, "b": one}), Tiered(budget=1)]
    assert len({base, *map(config_hash, others)}) == 4


def test_settings_table() -> None:
    rows = {row.key: row[1:] for row in settings_table(Tiered, "policy")}
    assert rows["policy.budget"] == ("a whole number of at least 1", "4000", "video tokens a layer (tokens)")
    assert rows["policy.tiers.NAME.share"] == ("a number from 0 to 1", "required", "share of the layers")
    assert rows["policy.tiers.NAME.scorer"][1] == "t_recency"
    assert rows["policy.smoothing.align"][:2] == ("one of index, identity", "index")
    assert rows["policy.prompt"] == ("text", "Describe.", "")
    assert len(rows) == 8
