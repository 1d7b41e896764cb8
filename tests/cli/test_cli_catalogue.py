"""Help, list, show, validate and doctor; commands and policies from the user's own folder and packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hermes.attention import NAME
from hermes.cli.ask import ask
from hermes.cli.doctor import _reachable
from hermes.config import available, to_dict
from hermes.machine.environment import attention_backend, environment
from hermes.registry import registry
from hermes.session.config import run_config
from hermes.version import __version__
from tests.support.command_line import Result, hermes, process, write


@pytest.mark.parametrize("argv", [["--help"], ["ask", "--help"], ["--version"], ["asc"]])
def test_light_commands_do_not_import_torch(argv: list[str], tmp_path: Path) -> None:
    code = f"import sys; from hermes.cli import main; main({argv!r}); sys.exit('torch' in sys.modules)"
    result = process(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_help_names_commands_and_main_settings() -> None:
    assert all(name in hermes("--help").out for name in ("ask", "list", "show", "validate", "doctor"))
    text = hermes("ask", "--help").out
    for key in ("backbone=NAME", "policy.budget=4000", "--choices", "--memory-map", "hermes ask sample"):
        assert key in text


def test_settings_in_the_help_are_real() -> None:
    named = re.findall(r"^    ([\w.]+)=(\S+) {2,}", ask.__doc__ or "", flags=re.MULTILINE)
    assert len(named) == 10
    for key, value in named:
        if value == "NAME":
            continue
        more = ["policy.tiers.working.share=0.5"] if "share" in key else []
        assert run_config([f"{key}={value}", *more])
        assert yaml.safe_load(value) == _at(to_dict(run_config([f"{key}={value}", *more])), key)


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_version() -> None:
    assert hermes("--version") == Result(0, f"hermes {__version__}\n", "")


def test_no_command_shows_help() -> None:
    result = hermes()
    assert result.code == 2
    assert "Usage: hermes" in result.out
    assert result.err == ""


def test_unknown_command() -> None:
    result = hermes("lst")
    assert result.code == 2
    assert "Did you mean 'list'?" in result.err


def test_list_has_everything_registered() -> None:
    text = hermes("list").out
    for kind in ("policy", "backbone", "scorer", "smoother", "selector", "merger", "reindexer", "probe"):
        assert all(re.search(rf"^{name} ", text, re.MULTILINE) for name in registry(kind).names()), kind
    assert all(name in text for name in [*available("policy"), *available("backbone")])
    hermes_facts = text[text.index("\nhermes ") :].splitlines()[2]
    assert hermes_facts.strip() == (
        "bounded; budget in tokens; observes attention; compress; arXiv 2601.14724"
    )


@pytest.mark.parametrize("kind", ["policies", "policy", "scorers", "parts", "callbacks"])
def test_list_of_one_kind(kind: str) -> None:
    text = hermes("list", kind).out
    assert ("guided_attention" in text) == (kind in ("scorers", "parts"))
    assert ("streaming_llm" in text) == (kind in ("policies", "policy"))


def test_list_of_an_unknown_kind() -> None:
    result = hermes("list", "polices")
    assert result.code == 2
    assert "Did you mean 'policies'?" in result.err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["hermes"],
            ["arXiv 2601.14724, Sec. 3", "policy.tiers.NAME.share", "a number from 0 to 1", "name: hermes"],
        ),
        (["random"], ["hermes.policies.random.Random", "hermes.parts.scorers.RandomScore"]),
        (["random", "--kind", "scorer"], ["hermes.parts.scorers.RandomScore", "redraw: false"]),
        (["llava_onevision_7b"], ["checkpoint: llava-hf/llava-onevision-qwen2-7b-ov-hf", "dtype: auto"]),
        (["qwen3_vl"], ["M-RoPE", "backbone.max_pixels"]),
        (["policies.fifo.Fifo"], ["newest", "policy.align"]),
        (["fifo_frame"], ["policy configuration", "align: frame"]),
    ],
)
def test_show(argv: list[str], expected: list[str]) -> None:
    result = hermes("show", *argv)
    assert result.code == 0
    for text in expected:
        assert text in result.out
    assert ("policies.random" in result.out) == (argv == ["random"])


@pytest.mark.parametrize("argv", [["hrmes"], ["random", "--kind", "bakbone"], ["no.such.Thing"]])
def test_show_of_nothing(argv: list[str]) -> None:
    result = hermes("show", *argv)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")


def test_validate_prints_everything_resolved() -> None:
    result = hermes("validate", "policy=fifo", "policy.budget=7")
    assert result.code == 0
    assert yaml.safe_load(result.out) == to_dict(run_config(["policy=fifo", "policy.budget=7"]))
    assert hermes("validate", "policy.tiers.sensory.shar=1").err.startswith(
        "error: policy.tiers.sensory.shar"
    )
    assert hermes("validate", "fifo").code == 2


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = hermes("doctor")
    assert result.code == 0
    for word in ("torch", "transformers", "attention", "h264", "hub cache", "offline"):
        assert word in result.out
    assert json.loads(hermes("doctor", "--json").out) == environment(NAME)


def test_doctor_does_not_wait_for_a_hub_that_is_not_there() -> None:
    assert not _reachable("127.0.0.1", 9)


def test_environment_is_plain() -> None:
    about = environment(NAME, "cpu")
    assert json.loads(json.dumps(about)) == about
    assert about["device"] == "cpu"
    assert about["versions"]["hermes-stream"]
    import torch

    assert "math" in attention_backend(NAME, torch.device("cuda"))


POLICY = """
from dataclasses import dataclass
from hermes.policies.fifo import Fifo

@dataclass
class Mine(Fifo):
    "A policy of my own."
"""
SCRIPT = str(Path(sys.executable).parent / "hermes")


@pytest.mark.parametrize("command", [[sys.executable, "-m", "hermes"], [SCRIPT]], ids=["module", "script"])
def test_current_folder_is_searched_last(command: list[str], tmp_path: Path) -> None:
    for name in ("policies", "analysis", "backbones", "typer", "rich"):
        write(tmp_path / name / "__init__.py", "raise RuntimeError('shadowed')")
    (tmp_path / "hermes" / "data").mkdir(parents=True)
    write(tmp_path / "mine.py", POLICY)
    result = process(*command, "validate", "policy=mine.Mine", "policy.budget=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["policy"]["name"] == "mine.Mine"


def test_commands_of_other_packages(tmp_path: Path) -> None:
    package = tmp_path / "site"
    info = package / "greetings-1.0.dist-info"
    info.mkdir(parents=True)
    write(info / "METADATA", "Metadata-Version: 2.1\nName: greetings\nVersion: 1.0\n")
    write(info / "entry_points.txt", "[hermes.commands]\ngreet = greetings:greet\nbroken = greetings.no:no\n")
    code = (
        'import typer\n\n\ndef greet(name: str) -> None:\n    "Say hello."\n    typer.echo(f"hello {name}")\n'
    )
    write(package / "greetings.py", code)
    run = [sys.executable, "-m", "hermes"]
    assert process(*run, "greet", "you", cwd=tmp_path, PYTHONPATH=str(package)).stdout == "hello you\n"
    text = process(*run, "--help", cwd=tmp_path, PYTHONPATH=str(package))
    assert "Say hello." in text.stdout
    assert "Cannot be used" in text.stdout
    assert text.returncode == 0
    broken = process(*run, "broken", cwd=tmp_path, PYTHONPATH=str(package))
    assert broken.returncode == 2
    assert "greetings.no" in broken.stderr


def test_reader_that_goes_away(tmp_path: Path) -> None:
    code = "import os, sys; os.close(0); from hermes.cli import main; sys.exit(main(['validate']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_a_group_of_settings_is_shown_by_its_path():
    link = hermes("show", "hermes.video.Link")
    assert "bandwidth" in link.out
    assert "kbit/s" in link.out
    assert "checkpoint" not in link.out
    run = hermes("show", "hermes.evaluation.EvalConfig")
    assert "delays" in run.out
    assert "trainer.devices" in run.out
