"""Settings: building, editing, composing, and above all what the errors say."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hermes.config import (
    Part,
    available,
    build,
    compose,
    config_hash,
    config_source,
    resolved_yaml,
    setting,
    settings_table,
    to_dict,
)
from hermes.errors import HermesError, InputError, SettingError, UnsupportedModelError, nearest
from hermes.registry import registry


class Scorer(Part, ABC):
    kind: ClassVar[str] = "scorer"

    @abstractmethod
    def score(self) -> float: ...


@dataclass
class Recency(Scorer):
    """Newest first."""

    k: float = setting(20.0, help="forgetting rate", gt=0)

    def score(self) -> float:
        return self.k


@dataclass
class Mixed(Scorer):
    """A weighted sum of others."""

    scorers: list[Scorer] = setting([], help="what to mix")
    weights: dict[str, float] = setting({}, ge=0)

    def score(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Chance(Scorer):
    seed: int = 0

    def score(self) -> float:
        return 0.0


@dataclass
class Tier:
    share: float = setting(help="share of the layers", ge=0, le=1)
    scorer: Scorer = setting(Recency(), help="what to keep")


@dataclass
class Smoothing:
    lam: float = setting(0.1, ge=0, lt=1)
    align: Literal["index", "identity"] = "index"
    deep: dict[str, float] = setting({"a": 1.0})
    layers: dict[int, float] = setting({3: 0.5})


class Policy(Part):
    kind: ClassVar[str] = "policy"


@dataclass
class Tiered(Policy):
    """Tiers of layers."""

    budget: int = setting(4000, help="video tokens a layer", unit="tokens", ge=1)
    tiers: dict[str, Tier] = setting({"sensory": Tier(0.1), "deep": Tier(0.9, Chance())})
    smoothing: Smoothing = setting(Smoothing(lam=0.3))
    prompt: str = "Describe."

    def __post_init__(self) -> None:
        if sum(tier.share for tier in self.tiers.values()) > 1.0001:
            raise SettingError("tiers", [t.share for t in self.tiers.values()], "shares that add up to 1")


@dataclass
class Newest(Policy):
    """Keep the newest."""

    budget: int = setting(4000, ge=1)


@dataclass
class Backbone:
    checkpoint: str
    dtype: Literal["auto", "float16"] = "auto"
    device: str | None = None


@dataclass
class Video:
    fps: float = setting(0.5, help="frames a second", gt=0)
    size: tuple[int, int] = (640, 360)


@dataclass
class Run:
    policy: Policy
    backbone: Backbone
    video: Video = field(default_factory=Video)
    seed: int | None = None
    experiment: str = ""


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    named: dict[str, dict[str, type]] = {
        "scorer": {"t_recency": Recency, "t_mixed": Mixed, "t_chance": Chance},
        "policy": {"t_tiered": Tiered, "t_newest": Newest},
    }
    for kind, entries in named.items():
        for name, cls in entries.items():
            monkeypatch.setitem(registry(kind)._local, name, cls)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    files = {
        "policy/small.yaml": "name: t_tiered\nbudget: 10\nprompt: small\n",
        "policy/smaller.yaml": "defaults: small\nbudget: 5\n"
        "tiers: {sensory: {scorer: t_chance}, deep: null}\n",
        "policy/nested/own.yaml": "name: t_newest\n",
        "policy/typo.yaml": "name: t_tiered\nbugdet: 10\n",
        "policy/broken.yaml": "name: [\n",
        "policy/list.yaml": "- 1\n",
        "policy/loop.yaml": "defaults: pool\n",
        "policy/pool.yaml": "defaults: loop\n",
        "backbone/tiny.yaml": "checkpoint: tiny\ndtype: float16\n",
        "experiment/base.yaml": "policy: smaller\npolicy.budget: 7\nvideo: {fps: 2}\n",
        "experiment/table.yaml": "defaults: base\nseed: 3\n",
        "experiment/edit.yaml": "policy: {defaults: small, prompt: edited}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def run(configs: Path) -> Callable[..., Run]:
    def hub(name: str) -> dict[str, object] | None:
        return {"checkpoint": name} if "/" in name else None

    def composed(*overrides: str) -> Run:
        defaults = {"policy": "t_tiered", "backbone": "tiny"}
        return compose(defaults, overrides, Run, config_dirs=[configs], fallbacks={"backbone": hub})

    return composed


def error(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


# build


def test_build_defaults_and_specs() -> None:
    assert build(Tiered) == Tiered()
    assert build(Policy, "t_newest") == Newest()
    assert build(Policy, {"name": "t_newest", "budget": "7"}) == Newest(7)
    assert build(Policy, f"{__name__}.Newest") == Newest()
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
    "another kind": (Tier, {"share": 1, "scorer": f"{__name__}.Newest"}, "is not a subclass of Scorer."),
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
            st.builds(Tier, share=st.floats(0, 0.2), scorer=st.builds(Chance, seed=st.integers())),
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


# compose


def test_choices(run: Callable[..., Run], configs: Path, tmp_path: Path) -> None:
    assert run().policy == Tiered()
    assert run().backbone == Backbone("tiny", "float16")
    assert run("policy=small").policy == Tiered(10, prompt="small")
    assert run("policy=nested/own").policy == Newest()
    assert run("policy=t_newest").policy == Newest()
    assert run(f"policy={__name__}.Newest").policy == Newest()
    assert run("backbone=org/model").backbone == Backbone("org/model")
    own = tmp_path / "mine.yaml"
    own.write_text("defaults: small\nbudget: 3\n")
    assert run(f"policy={own}").policy == Tiered(3, prompt="small")
    assert run("policy={name: t_newest, budget: 6}").policy == Newest(6)


def test_inheritance_merges_and_null_removes(run: Callable[..., Run]) -> None:
    assert run("policy=smaller").policy == Tiered(5, {"sensory": Tier(0.1, Chance())}, prompt="small")


def test_a_choice_keeps_edits_made_before_it(run: Callable[..., Run]) -> None:
    assert run("policy.budget=9", "policy=t_newest").policy == Newest(9)
    assert run("policy=t_newest", "policy=small", "policy.budget=9").policy == Tiered(9, prompt="small")


def test_experiment(run: Callable[..., Run]) -> None:
    got = run("seed=4", "experiment=table", "policy.tiers.sensory.share=0.2")
    assert (got.seed, got.video.fps, got.experiment) == (4, 2.0, "table")
    assert got.policy == Tiered(7, {"sensory": Tier(0.2, Chance())}, prompt="small")
    assert run("experiment=table", "policy=t_newest").policy == Newest(7)
    assert run("experiment=edit").policy == Tiered(10, prompt="edited")


def test_edits(run: Callable[..., Run]) -> None:
    got = run("policy.budget=1", "policy.budget=2", "video.size=[1, 2]", "seed=null", "policy.prompt='4'")
    assert (got.policy, got.video.size, got.seed) == (Tiered(2, prompt="4"), (1, 2), None)
    assert run("video={fps: 3}").video == Video(3.0)
    assert run("policy={budget: 3}").policy == Tiered(3)
    assert run("policy.prompt=a=b").policy == Tiered(prompt="a=b")
    assert run("policy.prompt=''").policy == Tiered(prompt="")


def test_tiers_from_the_command_line(run: Callable[..., Run]) -> None:
    def tiers(*overrides: str) -> dict[str, Tier]:
        policy = run(*overrides).policy
        assert isinstance(policy, Tiered)
        return policy.tiers

    sensory, deep = Tier(0.1), Tier(0.9, Chance())
    added = tiers(
        "policy.tiers.deep.share=0.7", "policy.tiers.mid.share=0.2", "policy.tiers.mid.scorer=t_chance"
    )
    assert added == {"sensory": sensory, "deep": Tier(0.7, Chance()), "mid": Tier(0.2, Chance())}
    assert tiers("~policy.tiers.deep") == tiers("policy.tiers.deep=null") == {"sensory": sensory}
    assert tiers("~policy.tiers.deep", "policy.budget=3") == {"sensory": sensory}
    # A mapping that names every tier sets their order.
    assert list(tiers("policy.tiers={deep: {}, mid: {share: 0}, sensory: {}}")) == ["deep", "mid", "sensory"]
    assert tiers("policy.tiers={deep: {}}") == {"sensory": sensory, "deep": deep}
    # Removing a setting that is not an entry of a named mapping gives its default back.
    assert tiers("policy=smaller", "~policy.tiers") == {"sensory": sensory, "deep": deep}


def test_another_name_replaces_the_part(run: Callable[..., Run]) -> None:
    def scorer(*overrides: str) -> Scorer:
        policy = run(*(f"policy.tiers.sensory.{text}" for text in overrides)).policy
        assert isinstance(policy, Tiered)
        return policy.tiers["sensory"].scorer

    assert scorer("scorer.k=5") == Recency(5)
    assert scorer("scorer.k=5", "scorer=t_recency") == Recency(5)
    assert scorer("scorer.k=5", "scorer.name=t_chance") == Chance()
    assert scorer("scorer.k=5", "scorer=t_chance", "scorer.seed=2") == Chance(2)
    assert scorer("scorer.k=5", "scorer=t_chance", "scorer=t_recency") == Recency()
    assert scorer("scorer={name: t_chance, seed: 3}") == Chance(3)
    assert scorer("scorer={k: 3}") == Recency(3)
    changed = run("policy=t_newest", "policy.name=t_tiered", "policy.tiers.sensory.share=0.05").policy
    assert changed == Tiered(tiers={"sensory": Tier(0.05), "deep": Tier(0.9, Chance())})
    mixed = scorer(
        "scorer=t_mixed", "scorer.scorers=[t_chance, {name: t_recency, k: 2}]", "scorer.weights.a=1"
    )
    assert mixed == Mixed([Chance(), Recency(2)], {"a": 1})


def test_removed_entries_stay_removed(run: Callable[..., Run]) -> None:
    policy = run("~policy.smoothing.deep.a", "policy.smoothing.deep.b=2", "policy.budget=1").policy
    assert isinstance(policy, Tiered)
    assert policy.smoothing == Smoothing(0.3, deep={"b": 2.0})
    policy = run("policy.smoothing.layers.4=0.1", "~policy.smoothing.layers.3").policy
    assert isinstance(policy, Tiered)
    assert policy.smoothing.layers == {4: 0.1}


def test_interpolation(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_BUDGET", "12")
    got = run(
        "policy.budget=${oc.env:T_BUDGET}",
        "seed=${policy.budget}",
        "policy.tiers.deep.share=${policy.tiers.sensory.share}",
        "policy.tiers.deep.scorer=${policy.tiers.sensory.scorer}",
        "policy.prompt=at ${video.fps} fps",
    )
    assert got.seed == 12
    assert got.policy == Tiered(12, {"sensory": Tier(0.1), "deep": Tier(0.1)}, prompt="at 0.5 fps")
    assert error(lambda: run("seed=${policy.bugdet}")).startswith(
        "seed: got '${policy.bugdet}'. Interpolation"
    )


WRONG = {
    "no equals": ("policy", "got 'policy'; allowed: key=value, or ~key"),
    "no key": ("=3", "got '=3'; allowed: key=value"),
    "empty key part": ("policy..budget=3", "got 'policy..budget=3'; allowed: key=value"),
    "removal with a value": ("~seed=3", "got '~seed=3'; allowed: key=value"),
    "no value": ("policy.budget=", "policy.budget: got ''; allowed: a value. Write policy.budget=null"),
    "yaml": ("seed=[1, 2", "seed: got '[1, 2'; allowed: a YAML value. YAML says: "),
    "top key": ("polcy=small", "polcy: got 'small'; allowed: the settings policy, backbone, video, seed"),
    "nearest top key": ("polcy=small", "Did you mean 'policy'?"),
    "nested key": (
        "policy.tiers.sensory.shar=1",
        "policy.tiers.sensory.shar: got 1; allowed: the settings share, scorer. "
        "There is no setting 'shar'. Did you mean 'share'?",
    ),
    "part's key": ("policy.tiers.sensory.scorer.kk=1", "policy.tiers.sensory.scorer.kk: got 1"),
    "new tier": ("policy.tiers.mid.scorer=t_chance", "policy.tiers.mid.share: got None; allowed: a number"),
    "below a number": ("policy.budget.x=5", "policy.budget: got {'x': 5}; allowed: a whole number"),
    "removal": ("~policy.tiers.deeep", "There is nothing to remove. Did you mean 'deep'?"),
    "removal below nothing": ("~policy.tiers.mid.share", "policy.tiers.mid.share: got None"),
    "null of nothing": ("policy.tiers.deeep=null", "policy.tiers.deeep: got None; allowed: sensory, deep."),
    "choice": ("policy=smal", "policy: got 'smal'; allowed: "),
    "nearest choice": ("policy=smal", "Did you mean 'small'?"),
    "no dataset": ("policy=null", "policy: got None; allowed: a policy ("),
    "dotted": ("policy=no_module.P", "Importing 'no_module' failed: ModuleNotFoundError"),
    "fallback": ("backbone=tny", "Did you mean 'tiny'?"),
    "no file": (
        "policy=none/at/all.yaml",
        "allowed: a file that exists. There is no file 'none/at/all.yaml'",
    ),
    "typo in a file": ("policy=typo", "policy.bugdet: got 10"),
    "broken file": ("policy=broken", "broken.yaml: cannot be read as YAML"),
    "list file": ("policy=list", "list.yaml: must be a mapping of settings"),
    "loop": ("policy=loop", "policy.defaults: got 'loop'. It inherits from itself: "),
    "experiment": ("experiment=tabel", "experiment: got 'tabel'; allowed: base, "),
    "experiment, nearest": ("experiment=tabel", "Did you mean 'table'?"),
    "type": ("policy.prompt=0123", "policy.prompt: got 83; allowed: text. Put the text in quotes"),
    "missing": ("seed=???", "seed: got '???'. Missing mandatory value"),
}


@pytest.mark.parametrize(("override", "expected"), WRONG.values(), ids=WRONG.keys())
def test_compose_errors(run: Callable[..., Run], override: str, expected: str) -> None:
    assert expected in error(lambda: run(override))


def test_resolved_config_composes_again(run: Callable[..., Run], tmp_path: Path) -> None:
    first = run("experiment=table", "policy.tiers.mid={share: 0.3, scorer: {name: t_recency, k: 2}}")
    saved = tmp_path / "resolved.yaml"
    saved.write_text(resolved_yaml(first))
    again = build(Run, OmegaConf.to_container(OmegaConf.load(saved)))
    assert again == first
    assert config_hash(again) == config_hash(first)


def test_config_files(configs: Path) -> None:
    names = available("policy", [configs])
    assert {"small", "smaller", "nested/own"} <= set(names)
    assert names == sorted(names)
    assert available("no_such_group", [configs]) == []
    assert config_source("policy", "nested/own", [configs]) == "name: t_newest\n"
    assert "Did you mean 'small'?" in error(lambda: config_source("policy", "smal", [configs]))


# errors


def test_error_classes_and_nearest() -> None:
    assert issubclass(SettingError, InputError)
    assert issubclass(UnsupportedModelError, InputError)
    assert str(SettingError("a.b", 3, (x for x in (1, 2)))) == "a.b: got 3; allowed: 1, 2"
    assert str(SettingError("", 3, [], "Try 4.")) == "got 3; allowed: (nothing). Try 4."
    assert nearest("HERMSE", ["fifo", "hermes"]) == "hermes"
    assert nearest("zzz", ["fifo", "hermes"]) is None
