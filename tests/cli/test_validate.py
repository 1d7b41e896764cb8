"""`hermes validate data=...`: findings before any model is loaded, and exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hermes.samples import CLIP
from tests.support.command_line import hermes as run
from tests.support.reader_cases import KINDS, faulty, save, shared


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model is loaded")

    for place in ("hermes.backbone.loading", "hermes.evaluation.running.module", "hermes.session.opening"):
        monkeypatch.setattr(f"{place}.load_backbone", refuse)


def given(folder: Path, content: Any) -> str:
    return f"data.annotations={save(folder, content)}"


def comments(out: str) -> list[str]:
    return [line.removeprefix("# ") for line in out.splitlines() if line.startswith("# ")]


def test_a_clean_benchmark(tmp_path):
    question = {"question": "What?", "answer": "red", "choices": ["red", "blue"], "end_time": 5.5}
    file = given(tmp_path, [shared(f"/elsewhere/{CLIP.name}", question, question | {"end_time": 6})])
    found = run("validate", "data=streamingbench", file, f"data.videos={CLIP.parent}", "policy=fifo")
    assert found.code == 0, found.err
    assert comments(found.out)[1:] == [
        "1 videos, 2 questions",
        f"paths: /elsewhere/{CLIP.name} is looked for as {CLIP} (data.strip=1)",
        "nothing is wrong",
    ]
    content = yaml.safe_load(found.out)
    assert content["data"]["name"] == "streamingbench"
    assert content["policy"]["name"] == "fifo"


def test_every_fault_is_listed(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((12, 8, 8, 3), np.uint8))
    (tmp_path / "broken.npy").write_bytes(b"no array at all")
    settings = (given(tmp_path, faulty()), f"data.videos={tmp_path}", "data.replace={mp4: npy}")
    found = run("validate", "data=annotations", *settings)
    assert found.code == 1
    lines = comments(found.out)
    assert lines[1] == "3 videos, 15 questions, 8 of which cannot be asked"
    for kind, number in KINDS.items():
        assert f"{kind} ({number}):" in lines
    assert any("gone.npy: there is none; in the file: /x/gone.mp4" in line for line in lines)
    assert any("the answer 'green' is none of the choices: red, blue" in line for line in lines)


def test_a_long_list_is_cut_short(tmp_path):
    file = given(tmp_path, [shared(f"{i}.mp4", {"question": "What?", "answer": ""}) for i in range(30)])
    assert "  and 20 more: --all" in comments(run("validate", "data=mvbench", file).out)
    whole = comments(run("validate", "data=mvbench", file, "--all").out)
    assert sum("there is none" in line for line in whole) == 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data=streamingbench", "data.annotations=none.json"], "none.json: cannot be read (No such file"),
        (["data=streamingbench"], "data.annotations: "),
        (["data=streamingbnch"], "Did you mean 'streamingbench'"),
        (["data=ovobench", "data.annotations=a.json", "data.format=mine"], "data.format: got 'mine'"),
    ],
)
def test_what_cannot_be_read(settings, message):
    found = run("validate", *settings)
    assert found.code == 2
    assert message in found.err


def test_not_json(tmp_path):
    (tmp_path / "a.json").write_text("[{")
    found = run("validate", "data=videomme", f"data.annotations={tmp_path / 'a.json'}")
    assert found.code == 2
    assert "not JSON" in found.err


def test_streams_that_have_no_files(tmp_path):
    settings = ("data.streams=2", "data.world.length=16", f"data.files={tmp_path / 'walks'}")
    found = run("validate", "data=wanderer", *settings)
    assert found.code == 0
    assert comments(found.out)[1].startswith("2 videos, ")
    assert not (tmp_path / "walks").exists()


@pytest.mark.parametrize("name", ["streamingbench", "ovobench", "rvs_ego", "mvbench", "egoschema"])
def test_show_explains_a_reader(name):
    found = run("show", name)
    assert found.code == 0
    for text in ("arXiv 2", "published", "strip", "replace", "missing"):
        assert text in found.out
