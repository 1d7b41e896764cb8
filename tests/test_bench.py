"""Records, `hermes bench`, and sessions that run on the Triton kernels."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from hermes.benchmark import PAPER, Recorder, stream_records, write_records
from hermes.cli import main
from hermes.errors import InputError
from hermes.generation import GenerationConfig
from hermes.memory import MemoryConfig
from hermes.session import StreamSession
from policies.hermes import Hermes
from tests.families import FAMILIES, make_frames, tiny


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
    with pytest.raises(InputError, match="nothing was measured"):
        recorder.record("add", "torch", "8", "float32", [], unit="ms")


@pytest.mark.model
def test_stream_records_cover_the_table() -> None:
    generation = GenerationConfig(max_new_tokens=3)
    with StreamSession(tiny("llava_onevision"), Hermes(budget=40), generation=generation) as session:
        records = list(stream_records(session, [5, 20], size=(42, 42), rounds=2))
    assert [record.operation for record in records[:5]] == [
        "encode",
        "compress",
        "ttft",
        "tpot",
        "peak_memory",
    ]
    assert len(records) == 10
    assert all(record.median > 0 for record in records)
    assert session.frames_seen == 20
    assert PAPER.keys() <= {record.operation for record in records}


@pytest.mark.model
def test_bench_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, picture = tmp_path / "bench.csv", tmp_path / "bench.png"
    arguments = ["--frames", "4,8", "--rounds", "1", "--size", "42x42", "policy.budget=40"]
    code = main(
        ["bench", *arguments, "generation.max_new_tokens=2", "--csv", str(table), "--plot", str(picture)]
    )
    assert code == 0
    assert "27-29 ms" in capsys.readouterr().out
    assert picture.stat().st_size > 0
    assert len(table.read_text().splitlines()) == 11


@pytest.mark.unit
@pytest.mark.parametrize("wrong", [["--frames", "8,4"], ["--frames", "0"], ["--size", "42"], ["clip.mp4"]])
def test_bench_refuses(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *wrong]) == 2
    assert wrong[-1] in capsys.readouterr().err


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
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
        assert torch.equal(mine.held.id, wanted.held.id)
        assert torch.equal(mine.positions, wanted.positions)
        assert torch.allclose(mine.keys, wanted.keys, atol=2e-5)
        assert torch.allclose(mine.values, wanted.values, atol=2e-5)
    providers = {choice.provider for choice in ours.memory.kernels.chosen.values()}
    assert providers == {"triton"}, json.dumps({k: v.reason for k, v in ours.memory.kernels.chosen.items()})
    assert {"attention_mass", "compact_layer"} <= ours.memory.kernels.chosen.keys()
