"""Records, `hermes bench`, and sessions that run on the Triton kernels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from hermes.bench import PAPER, Recorder, bench_config, stream_records, write_bench, write_records
from hermes.cli import main
from hermes.decoding.generation import GenerationConfig
from hermes.errors import InputError, SettingError
from hermes.evaluation.sweeps.cells import SweepCell
from hermes.evaluation.sweeps.running import Outcome
from hermes.memory import MemoryConfig
from hermes.policies.hermes import Hermes
from hermes.session.session import StreamSession
from tests.support.command_line import hermes, write
from tests.support.families import FAMILIES, make_frames, tiny


@pytest.mark.unit
def test_records_are_appended_to_one_file(tmp_path: Path) -> None:
    recorder, path = Recorder("cpu"), tmp_path / "deep" / "records.csv"
    first = recorder.record("add", "torch", "8", "torch.float32", [3.0, 1.0, 2.0], unit="ms")
    for _ in range(2):
        write_records(path, [first])
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["median"] for row in rows] == ["2.0", "2.0"]
    assert rows[0]["dtype"] == "float32"
    assert str(torch.__version__) in rows[0]["versions"]
    assert (first.low, first.high) == (1.2, 2.8)
    with pytest.raises(InputError, match="nothing was measured"):
        recorder.record("add", "torch", "8", "float32", [], unit="ms")


@pytest.mark.model
def test_stream_records_cover_the_table() -> None:
    generation = GenerationConfig(max_new_tokens=3)
    with StreamSession(tiny("llava_onevision"), Hermes(budget=40), generation=generation) as session:
        records = list(stream_records(session, [5, 20], size=(42, 42), rounds=2))
    operations = ["encode", "compress", "ttft", "tpot", "memory", "peak_memory"]
    assert [record.operation for record in records] == 2 * operations
    assert all(record.median > 0 for record in records)
    # The chunk that warms up is not counted.
    assert session.frames_seen == 20
    assert records[-2].median == session.memory.memory_bytes / 1e6
    assert PAPER.keys() <= {record.operation for record in records}


@pytest.mark.model
def test_bench_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, picture = tmp_path / "bench.csv", tmp_path / "bench.png"
    arguments = ["--frames", "4,8", "--rounds", "1", "--size", "42x42", "policy.budget=40"]
    code = main(
        ["bench", *arguments, "generation.max_new_tokens=2", "--csv", str(table), "--plot", str(picture)]
    )
    assert code == 0
    said = capsys.readouterr().out
    assert "ttft (ms)" in said
    # The paper's figures are of a model of 7 B.
    assert "27-29 ms" not in said
    assert "paper" not in said
    assert picture.stat().st_size > 0
    assert len(table.read_text().splitlines()) == 13


@pytest.mark.unit
@pytest.mark.parametrize("wrong", [["--frames", "8,4"], ["--frames", "0"], ["--size", "42"], ["clip.mp4"]])
def test_bench_refuses(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *wrong]) == 2
    assert wrong[-1] in capsys.readouterr().err


@pytest.mark.unit
def test_one_file_is_for_one_measurement(tmp_path: Path) -> None:
    wrong = hermes("bench", "policy=fifo,full", "--csv", str(tmp_path / "a.csv"))
    assert (wrong.code, "output=FOLDER" in wrong.err) == (2, True)


def test_bench_settings():
    assert bench_config(["bench.frames=[2, 4]", "bench.size=[42, 64]"]).bench.size == (42, 64)
    for wrong in ("[4, 2]", "[2, 2]", "[]", "[0, 1]"):
        with pytest.raises(SettingError, match=r"^bench\.frames"):
            bench_config([f"bench.frames={wrong}"])


def test_the_page_of_an_experiment(tmp_path: Path) -> None:
    recorder = Recorder("cpu")

    def outcome(policy: str, times: list[float]) -> Outcome:
        shapes = ("2 frames, budget 8, chunk 2", "4 frames, budget 8, chunk 2")
        records = [recorder.record("ttft", policy, shape, "float32", times, unit="ms") for shape in shapes]
        return Outcome(
            SweepCell({"policy": policy}, (), policy), {"records": [vars(record) for record in records]}
        )

    outcomes = [outcome("a", [1.0, 2.0, 3.0]), outcome("b", [5.0])]
    outcomes.append(Outcome(SweepCell({"policy": "c"}, (), "c"), None, "ValueError: no"))
    page = write_bench(outcomes, tmp_path, "A try", {"policy=a": {"ttft": {2: 27.01}}}).read_text()
    assert "## Time to the first token (ms)" in page
    assert "| policy=a | 2 (1.2-2.8) | 2 (1.2-2.8) |\n| *published* | 27.01 | - |" in page
    assert "| policy=b | 5 | 5 |" in page
    assert "- policy=c: ValueError: no" in page
    assert (tmp_path / "plot.png").stat().st_size > 5_000
    with (tmp_path / "records.csv").open(newline="") as stream:
        assert [row["cell"] for row in csv.DictReader(stream)] == 2 * ["policy=a"] + 2 * ["policy=b"]


@pytest.mark.model
def test_a_bench_experiment_measures_what_is_missing(tmp_path: Path) -> None:
    text = """
        title: A try
        backbone: tiny_llava_onevision
        generation.max_new_tokens: 2
        bench: {frames: [2, 4], rounds: 1, size: [42, 42]}
        sweep: {policy: [fifo, full]}
        cells: {small: {policy.budget: 20}, no room: {policy.budget: 2}}
    """
    command = ["bench", f"experiment={write(tmp_path / 'try.yaml', text)}", f"output={tmp_path}"]
    only = hermes(*command, "--only", "small*")
    assert only.code == 0, only.err
    cells = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*/done.json")}
    assert len(cells) == 2
    held = [row for row in rows(tmp_path / "records.csv") if row["operation"] == "memory"]
    assert {(row["cell"], row["shape"].split()[0]) for row in held} == {
        (f"small policy={policy}", count) for policy in ("fifo", "full") for count in "24"
    }
    fifo, full = ([float(row["median"]) for row in held if row["cell"].endswith(p)] for p in ("fifo", "full"))
    assert full[1] > full[0]
    assert fifo[1] < full[1]
    # A failed cell stops no other, and done ones stay.
    whole = hermes(*command)
    assert whole.code == 1
    assert "no room policy=fifo: SettingError: policy.budget: got 2" in (tmp_path / "table.md").read_text()
    assert {path: path.stat().st_mtime_ns for path in cells} == cells
    again = hermes(*command, "--only", "small policy=fifo", "--again")
    assert again.code == 0
    assert sum(path.stat().st_mtime_ns != before for path, before in cells.items()) == 1


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.model
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family == "llava_onevision" else pytest.mark.thorough)
        for family in FAMILIES
    ],
)
def test_kernel_session_equals_reference(family: str) -> None:
    """The whole loop on the Triton kernels, in their interpreter, summaries and re-indexing included."""
    sessions = []
    for kernels in ("torch", "triton"):
        policy = Hermes(budget=40)
        policy.reindex.margin = 32768 - 90
        memory = MemoryConfig(kernels=kernels)
        session = StreamSession(tiny(family), policy, memory=memory, fps=2.0, chunk_frames=8)
        session.feed(make_frames(20))
        sessions.append(session)
    reference, ours = sessions
    for mine, wanted in zip(ours.memory, reference.memory, strict=True):
        assert torch.equal(mine.origin.id, wanted.origin.id)
        assert torch.equal(mine.positions, wanted.positions)
        assert torch.allclose(mine.keys, wanted.keys, atol=2e-5)
        assert torch.allclose(mine.values, wanted.values, atol=2e-5)
    providers = {choice.provider for choice in ours.memory.kernels.chosen.values()}
    assert providers == {"triton"}, json.dumps({k: v.reason for k, v in ours.memory.kernels.chosen.items()})
    assert {"attention_mass", "compact_layer"} <= ours.memory.kernels.chosen.keys()
