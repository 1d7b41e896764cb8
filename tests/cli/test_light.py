"""Commands that answer without torch: the same text as with it, or a second start that has it."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
import typing
from abc import ABC
from collections.abc import Callable, Mapping
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hermes.cli import light
from hermes.cli.stand_ins import NeedsRealPackageError, StandIn, StandInModule, _Finder, refusals
from tests.support.command_line import Result, hermes, write

SCRIPT = str(Path(sys.executable).parent / "hermes")
# Every start of the interpreter and every heavy package that it executes, a line each.
WATCHER = """
import os, sys

def note(line):
    with open(os.environ["HERMES_TEST_LOG"], "a") as file:
        file.write(f"{line}\\n")

def watch(event, args):
    if event == "exec" and (found := getattr(args[0], "co_filename", "")).endswith("/__init__.py"):
        if found.split("/")[-2] in ("torch", "transformers", "lightning", "jaxtyping", "av"):
            note(found.split("/")[-2])

note("start")
if "_HERMES_IN_FULL" in os.environ and "HERMES_TEST_STOP" in os.environ:
    os._exit(42)
sys.addaudithook(watch)
"""


@dataclasses.dataclass
class Shell:
    """Runs commands in a folder of the user's, with packages of the user's beside ours."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / "site").mkdir()
        write(self.folder / "site" / "sitecustomize.py", WATCHER)

    def run(self, *argv: str, command: str = SCRIPT, **variables: str) -> tuple[Result, list[str]]:
        """What a command printed, and its starts and heavy packages."""
        log = self.folder / "log"
        log.write_text("")
        more = {"PYTHONPATH": str(self.folder / "site"), "HERMES_TEST_LOG": str(log), "HF_HUB_OFFLINE": "1"}
        env = {**os.environ, "COLUMNS": "100", **more, **variables}
        words = [*command.split(), *argv]
        done = subprocess.run(words, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        return Result(done.returncode, done.stdout, done.stderr), log.read_text().split()

    def install(self, name: str, policy: str, source: str) -> None:
        """A package with one policy."""
        info = self.folder / "site" / f"{name}-1.0.dist-info"
        info.mkdir()
        write(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        write(info / "entry_points.txt", f"[hermes.policies]\n{name} = {name}:{policy}\n")
        write(self.folder / "site" / f"{name}.py", source)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def in_full(monkeypatch: pytest.MonkeyPatch, folder: Path, *argv: str) -> Result:
    """The same command in this process, which has torch."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(folder)
    return hermes(*argv)


LIGHT = [
    "",
    "--help",
    "--version",
    "ask --help",
    "list",
    "list policies",
    "list polices",
    "show archived",
    "show random",
    "show guided_attention",
    "show qwen3_vl",
    "show fifo_frame",
    "show policies.fifo.Fifo",
    "show table1_ovobench",
    "show hrmes",
    "validate",
    "validate policy=fifo policy.budget=64",
    "validate policy=hermes policy.tiers.sensory.share=0.2",
    "validate policy=hermse",
    "validate experiment=embedded",
    "validate data=wanderer data.streams=2",
    "validate data=ovobench",
]


@pytest.mark.parametrize("line", LIGHT)
def test_a_light_command_says_the_same_without_torch(
    line: str, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, log = shell.run(*line.split())
    assert log == ["start"]
    assert found == in_full(monkeypatch, shell.folder, *line.split())


def test_as_a_module(shell: Shell) -> None:
    found, log = shell.run("list", "probes", command=f"{sys.executable} -m hermes")
    assert log == ["start"]
    assert "attention_mass" in found.out


HEADER = """
from __future__ import annotations

from dataclasses import dataclass

import torch
from hermes.config import setting
from hermes.policies.fifo import Fifo
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

"""
POLICY = """
@dataclass
class Mine(Fifo):
    "A policy of my own."

    budget: int = setting(BUDGET, help=HELP)

    @torch.no_grad()
    def compress(self, memory, observe):
        return {}
"""
# What a module does with torch when it is imported.
INERT = """
BUDGET, HELP = 7, "tokens"
Pairs = dict[str, Tensor | None]
KINDS = {torch.float32: 4, torch.float16: 2}
EMPTY = torch.zeros(3, dtype=torch.float32)

class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)
"""
REAL = {
    "value": "BUDGET, HELP = int(torch.arange(5).sum()), 'tokens'",
    "text": "BUDGET, HELP = 7, f'tokens with {torch.float32}'",
    "version": "BUDGET, HELP = 7, torch.__version__",
    "constant": "BUDGET, HELP = 7, 'none' if torch.version.cuda is None else 'some'",
    "choice": "BUDGET, HELP = 7, 'many' if torch.cuda.is_available() else 'one'",
    "swallowed": "try:\n    BUDGET = int(torch.ones(3).sum())\nexcept:\n    BUDGET = 1\nHELP = 'tokens'",
    "no such name": "from torch import no_such_name\nBUDGET, HELP = 7, 'tokens'",
    "no such module": "import torch.no_such_module\nBUDGET, HELP = 7, 'tokens'",
    "optional": "try:\n    import torch._C._no\nexcept ImportError:\n    HELP = 'without'\nBUDGET = 7",
    "fault": "BUDGET, HELP = 7, 'tokens'\nraise ValueError('a fault of the package')",
}


def test_an_installed_policy_has_the_standing_of_ours(shell: Shell) -> None:
    shell.install("mine_inert", "Mine", HEADER + INERT + POLICY)
    found, log = shell.run("list", "policies")
    assert log == ["start"]
    lines = found.out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("mine_inert "))
    assert "A policy of my own." in lines[at]
    assert "bounded; budget in tokens" in lines[at + 1]
    found, log = shell.run("validate", "policy=mine_inert")
    assert log == ["start"]
    assert "  budget: 7\n" in found.out


@pytest.mark.parametrize("name", REAL)
def test_real_work_at_import_starts_anew(name: str, shell: Shell) -> None:
    write(shell.folder / "mine.py", HEADER + REAL[name] + POLICY)
    found, log = shell.run("show", "mine.Mine", HERMES_TEST_STOP="1")
    assert log == ["start", "start"]
    assert found == Result(42, "", "")


@pytest.mark.parametrize("name", ["value", "no such name"])
def test_a_second_start_has_torch(name: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    module = f"mine_{name.replace(' ', '_')}"
    write(shell.folder / f"{module}.py", HEADER + REAL[name] + POLICY)
    found, log = shell.run("validate", f"policy={module}.Mine")
    assert log[:2] == ["start", "start"]
    assert "torch" in log
    assert found == in_full(monkeypatch, shell.folder, "validate", f"policy={module}.Mine")
    assert found.code == (2 if name == "no such name" else 0)


@pytest.mark.parametrize(
    "source",
    [
        "class Mine(nn.Module, Fifo):\n    pass\n",
        "class Mine(nn.Module):\n    'A description.'\n\n    kind = 'policy'\n",
        "Mine = nn.Linear\n",
    ],
    ids=["policy", "described", "theirs"],
)
@pytest.mark.parametrize("words", ["show mine.Mine", "validate policy=mine.Mine"])
def test_what_is_made_of_torch_starts_anew(source: str, words: str, shell: Shell) -> None:
    write(shell.folder / "mine.py", HEADER + source)
    assert shell.run(*words.split(), HERMES_TEST_STOP="1")[0].code == 42


def test_a_broken_package_is_listed_with_its_error(shell: Shell) -> None:
    shell.install("mine_broken", "Mine", HEADER + REAL["no such name"] + POLICY)
    found, log = shell.run("list", "policies")
    assert log[:2] == ["start", "start"]
    assert "cannot import name 'no_such_name' from 'torch'" in " ".join(found.out.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("hermes li", ["list"]),
        ("hermes validate --a", ["--all"]),
        ("hermes list rei", ["reindexers"]),
        ("hermes show guided", ["guided_attention"]),
        ("hermes ask sample policy = fif", ["fifo", "fifo_frame"]),
        ("hermes validate probe", ["probe=attention_mass"]),
    ],
)
def test_completion(words: str, expected: list[str], shell: Shell) -> None:
    given = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    found, log = shell.run(_HERMES_COMPLETE="complete_bash", **given)
    assert log == ["start"]
    assert (found.code, found.out.split()) == (0, expected)


def test_completion_of_words_that_the_shell_leaves_whole(shell: Shell) -> None:
    words = "hermes validate policy=fif"
    found, _ = shell.run(_HERMES_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=words)
    assert '"policy=fifo"' in found.out


def test_another_program_stays_as_it_is() -> None:
    assert hermes("list", "probes").code == 0
    assert not any(isinstance(finder, _Finder) for finder in sys.meta_path)
    assert not isinstance(sys.modules["torch"], StandInModule)


def test_what_suits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/hermes"])
    os.mkfifo(tmp_path / "pipe")
    once = f"data.annotations={tmp_path / 'pipe'}"
    for argv in (["ask", "sample"], ["ask", "--", "--help"], ["list", "--debug"], ["validate", once]):
        assert not light.suits(argv), argv
    assert light.suits(["list"])
    monkeypatch.setenv("_HERMES_IN_FULL", "1")
    assert not light.suits(["list"])
    assert light.suits(["list"])
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    assert not light.suits(["list"])


def test_a_reader_that_goes_away(shell: Shell) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([SCRIPT, "list", "probes"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


REFUSED: Mapping[str, Callable[[Any], object]] = {
    "truth": bool,
    "not": lambda x: not x,
    "equal": lambda x: x == 1,
    "unequal": lambda x: x != "a",
    "less": lambda x: x < 1,
    "more": lambda x: x > 1,
    "in": lambda x: x in ("a", "b"),
    "holds": lambda x: 1 in x,
    "iteration": list,
    "unpacking": lambda x: [*x],
    "length": len,
    "sum": lambda x: x + 1,
    "sum on the right": lambda x: 1 + x,
    "negative": lambda x: -x,
    "int": int,
    "float": float,
    "index": lambda x: [1, 2][x],
    "repetition": lambda x: "ab" * x,
    "str": str,
    "repr": repr,
    "format": lambda x: f"{x}",
    "percent": lambda x: "%s" % x,  # noqa: UP031
    "names": dir,
    "copy": copy.deepcopy,
    "context": lambda x: x.__enter__(),
    "instance": lambda x: isinstance(x, x),
    "item of an item": lambda x: int(x[0].size(1)),
    "description": lambda x: x.__doc__,
    "name": lambda x: x.__name__,
    "assigned item": lambda x: x.__setitem__(0, 1),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_is_refused(name: str) -> None:
    count = len(refusals)
    with pytest.raises(NeedsRealPackageError, match="needs the real package"):
        REFUSED[name](StandIn("torch.value"))
    assert len(refusals) > count


def test_what_a_definition_needs_is_there() -> None:
    kind, other = StandIn("torch.Tensor"), StandIn("torch.dtype")

    @dataclasses.dataclass
    class Plain:
        a: kind | None = None  # type: ignore[valid-type]
        b: typing.ClassVar[kind]  # type: ignore[valid-type]
        c: dict[str, kind[int, "n"]] = dataclasses.field(default_factory=dict)  # type: ignore[valid-type]

    assert list(typing.get_type_hints(Plain, None, {"kind": kind})) == ["a", "b", "c"]
    typing.Optional[kind], typing.Union[kind, other, int]  # noqa: UP007, UP045
    assert not isinstance(Plain(), (kind, other))  # type: ignore[arg-type]
    assert {kind: 1, other: 2}[kind] == 1
    assert kind.no_grad()(Plain) is Plain
    assert kind.jit(len) is len


def test_a_class_of_a_stand_in_is_defined_and_no_more() -> None:
    base, second = StandIn("torch.nn.Module"), StandIn("lightning.Callback")

    class Net(base[int], second, ABC):  # type: ignore[misc]
        """A network."""

        size = 3

    assert Net.size == 3
    for use in (Net, repr, lambda net: net.__doc__, lambda net: net.parameters):
        with pytest.raises(NeedsRealPackageError):
            use() if use is Net else use(Net)


def stand_in(name: str, path: list[str] | None = None) -> ModuleType:
    spec = _Finder().find_spec(name, path)
    assert spec is not None
    return module_from_spec(spec)


def test_names_of_a_module() -> None:
    module, version = stand_in("torch"), stand_in("torch.version", list(torch.__path__))
    assert isinstance(module.Tensor, StandIn)
    assert module.Tensor is module.Tensor
    assert isinstance(module.arange, StandIn)
    for absent in ("no_such_name", "__version__", "__all__"):
        with pytest.raises(NeedsRealPackageError):
            getattr(module, absent)
    with pytest.raises(NeedsRealPackageError):
        version.cuda  # noqa: B018
    with pytest.raises(NeedsRealPackageError):
        _Finder().find_spec("torch.no_such_module", list(torch.__path__))
    assert _Finder().find_spec("no_such_package", None) is None
