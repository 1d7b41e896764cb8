"""Settings files and words of any form: what they mean, or an error that names them; nothing runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from hermes.config import config_hash, config_source, resolved_yaml, settings_of
from hermes.errors import HermesError, InputError, SettingError
from hermes.evaluation.sweeps.cells import cells_of
from hermes.session.config import RunConfig, run_config

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
FILES: Mapping[str, tuple[str | bytes, str]] = {
    "code": ("name: !!python/object/apply:os.system ['touch pwned']", "could not determine a constructor"),
    "a tuple": ("name: !!python/tuple [1]", "could not determine a constructor"),
    "laughs": (LAUGHS, "values with its aliases written out"),
    "itself": ("a: &a [*a]", "values with its aliases written out"),
    "deep": ("a: " + "[" * 200_000, "nested too deep"),
    "deep mappings": ("{a: " * 200_000, "nested too deep"),
    "huge": ("#" * (5 * 2**20), "bytes; at most"),
    "nul": ("name: hermes\0", "special characters"),
    "binary": (bytes(range(256)), "codec can't decode"),
    "UTF-16": ("name: hermes".encode("utf-16"), "codec can't decode"),
    "a list": ("- a", "is a list"),
    "a number": ("5", "cannot be read as YAML"),
    "6000 digits": ("budget: " + "9" * 6000, "4300 digits"),
    "unhashable": ("[1]: 2", "unhashable"),
    "twice": ("budget: 5\nbudget: 6", "duplicate key budget"),
    "no key": ("~: 5", "key type"),
    "a bad tag": ("budget: !!int ''", "cannot be read as YAML"),
    "a bad truth": ("budget: !!bool x", "cannot be read as YAML"),
    "a bad time": ("budget: !!timestamp x", "cannot be read as YAML"),
    "an undefined alias": ("<<: *x", "undefined alias"),
    "half a reference": ("name: hermes\nbudget: ${a", "cannot be read as YAML"),
    "a surrogate": ('name: "\\ud800"', "Unicode character escape"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, said = FILES[name]
    path = tmp_path / "own.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for group in ("policy", "experiment"):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{re.escape(said)}") as caught:
            run_config([f"{group}={path}"])
        assert len(str(caught.value)) < 1000
    with pytest.raises(InputError):
        config_source("policy", str(path))
    assert not (tmp_path / "pwned").exists()


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("\ufeffname: fifo\nbudget: 50")
    assert run_config([f"policy={path}"]).policy.budget == 50


@pytest.mark.parametrize("name", ["a" * 5000, "a" * 5000 + ".yaml", "/dev/null/x.yaml", "."])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(SettingError, match="policy: got"):
        run_config([f"policy={name}"])


# -- the environment --------------------------------------------------------------------------------


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("T_SECRET", "hunter2")
    monkeypatch.setenv("T_NUMBER", "77")
    return "hunter2"


REFERENCES = (
    "${oc.env:T_SECRET}",
    "a ${ oc.env : T_SECRET } b",
    "${oc.env:NOT_SET,x}",
    "${oc.decode:5}",
    "${oc.select:seed}",
    "${oc.create:{a: 1}}",
    "${oc.dict.keys:policy}",
    "${oc.${seed}:T_SECRET}",
    "${nothing:1}",
)


@pytest.mark.parametrize("text", REFERENCES)
def test_nothing_but_settings_is_referred_to(text: str, secret: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"name: hermes\nenvironment: true\nprompts: {{local_text: '{text}'}}".replace("\\", ""))
    for words in ([f"policy.prompts.local_text={text}"], [f"policy={path}"]):
        with pytest.raises(SettingError) as caught:
            run_config(words)
        assert secret not in str(caught.value)


def test_the_environment_where_it_is_allowed_is_never_written_out(secret: str) -> None:
    words = [
        "environment=true",
        "policy.prompts.local_text=say ${oc.env:T_SECRET}",
        "policy.budget=${oc.env:T_NUMBER}",
        "backbone.revision=${policy.prompts.local_text}",
        "generation.temperature=${oc.env:NOT_SET,0.5}",
    ]
    config = run_config(words)
    assert config.policy.prompts.local_text == config.backbone.revision == f"say {secret}"
    assert (config.policy.budget, config.generation.temperature) == (77, 0.5)
    written = resolved_yaml(config)
    assert secret not in written
    for line in ("budget: ${oc.env:T_NUMBER}", "say ${oc.env:T_SECRET}", "${oc.env:NOT_SET,0.5}"):
        assert line in written
    # The hash is of what was written, too.
    assert config_hash(config) != config_hash(run_config(words[:-1]))


@pytest.mark.parametrize("kind", ["sweep", "cells", "besides", "settings"])
def test_no_experiment_can_allow_itself_the_environment(kind: str, secret: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    own = {" environment": True, "policy.prompts.local_text": "${oc.env:T_SECRET}"}
    listed = {key: [value] for key, value in own.items()}
    content = {"sweep": listed, "cells": {"a": own}, "besides": {"a": own}}.get(kind)
    path.write_text(json.dumps({kind: content} if content else own))
    with pytest.raises(InputError) as caught:
        cells_of([f"experiment={path}"])
    assert secret not in str(caught.value)


def test_errors_do_not_say_what_the_environment_holds(secret: str) -> None:
    for word in ("policy.budget=${oc.env:T_SECRET}", "policy.trigger=${oc.env:T_SECRET}"):
        with pytest.raises(SettingError, match=r"got '\$\{oc\.env:T_SECRET\}'") as caught:
            run_config(["environment=true", word])
        assert secret not in str(caught.value)
    with pytest.raises(SettingError, match="'NOT_SET' is not"):
        run_config(["environment=true", "policy.budget=${oc.env:NOT_SET}"])
    with pytest.raises(SettingError):
        run_config(["environment=true", "policy.budget=${oc.decode:${oc.env:T_NUMBER}}"])


def test_what_a_variable_holds_is_not_looked_at_for_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_SECRET", "${seed} ${oc.env:HOME}")
    config = run_config(["environment=true", "policy.prompts.local_text=${oc.env:T_SECRET}"])
    assert config.policy.prompts.local_text == "${seed} ${oc.env:HOME}"


# -- numbers ----------------------------------------------------------------------------------------


def _whole_numbers(cls: type, where: str = "") -> list[str]:
    return [
        f"{where}{name}"
        for name, one in settings_of(cls).items()
        if one.type in (int, int | None) or str(one.type).startswith("int")
    ]


@pytest.mark.parametrize("number", [10**20, -(10**20), 2**63, 10**400])
def test_whole_numbers_fit_64_bits(number: int) -> None:
    keys = _whole_numbers(RunConfig)
    for key in ("policy", "video", "stream", "generation", "question"):
        keys += _whole_numbers(type(getattr(run_config(), key)), f"{key}.")
    assert {"seed", "policy.budget", "generation.max_new_tokens"} <= set(keys)
    for key in keys:
        with pytest.raises(SettingError, match=f"^{key}: got -?[0-9]+"):
            run_config([f"{key}={number}"])


# -- anything at all --------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        *(
            "policy",
            "policy.budget",
            "policy.tiers",
            "policy.tiers.sensory.share",
            "policy.selector",
            "policy.x",
        ),
        *("policy.tiers.working.scorer", "policy.prompts.local_text", "~policy.tiers", "~seed", "a.b.c", "x"),
        *("backbone", "video.fps", "seed", "threads", "probe", "callbacks", "experiment", "environment"),
        *("question.max_tokens", "memory.clock"),
    ]
)
SCRAPS = st.sampled_from(
    [
        *("fifo", "hermes", "null", "~", "[", "]", "{", "}", ":", ", ", "- ", "&a ", "*a", "!!int "),
        *("!!python/none ", "${", "}", "${seed}", "${oc.env:HOME}", "\\", "'", '"', "|\n", "#", "%", "@"),
        *("???", "0x", "1e999", ".nan", "\0", "\x1b", "\ud800", "\u2028", "9" * 30, "../", "/dev/zero"),
        *(".yaml", "<<: ", "name: ", "defaults: "),
    ]
)
VALUES = st.one_of(
    st.lists(SCRAPS, max_size=6).map("".join),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)
WORDS = st.lists(st.tuples(KEYS, VALUES).map("=".join), max_size=3)
TEXTS = st.one_of(
    st.lists(st.one_of(SCRAPS, KEYS, st.just("\n  ")), max_size=12).map(
        lambda parts: "".join(parts).encode(errors="surrogatepass")
    ),
    st.binary(),
)
many = pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.thorough)])


def _try(cases: st.SearchStrategy[Any], count: int, check: Callable[[Any], object]) -> None:
    """Let a check see so many cases; it may refuse them with an error of ours."""

    @seed(14)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def run(case: Any) -> None:
        with suppress(HermesError):
            check(case)

    run()


@many
def test_words_of_any_form(count: int) -> None:
    def check(words: list[str]) -> None:
        made = run_config(words)
        config_hash(made)
        resolved_yaml(made)

    _try(WORDS, count, check)


@many
def test_files_of_any_form(count: int, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"

    def check(text: bytes) -> None:
        path.write_bytes(text)
        with suppress(HermesError):
            run_config([f"experiment={path}"])
        run_config([f"policy={path}"])

    _try(TEXTS, count, check)
