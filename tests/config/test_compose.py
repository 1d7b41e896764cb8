"""Settings: choosing, inheriting, editing and composing files, and what the errors say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hermes.config import available, build, config_hash, config_source, resolved_yaml
from hermes.errors import InputError, SettingError, UnsupportedModelError, nearest
from tests.config.cases import (
    Backbone,
    Chance,
    Mixed,
    Newest,
    Recency,
    Run,
    Scorer,
    Smoothing,
    Tier,
    Tiered,
    Video,
    error,
)

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
        "environment=true",
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
