"""`hermes ask`: what it answers, and where that is written."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from hermes.cli.questions import read_questions
from hermes.samples import CLIP, QUESTIONS
from hermes.session.session import StreamSession
from tests.support.command_line import BUDGET, FAST, Result, hermes

FIELDS = {
    *("question", "time_s", "answer", "choice", "probabilities", "correct", "ttft_ms", "tpot_ms"),
    *("frames_seen", "tokens_per_layer", "memory_bytes", "peak_memory_bytes"),
    *("policy", "backbone", "budget", "seed", "versions"),
}


@pytest.fixture(scope="module")
def sample() -> Result:
    """The bundled clip with its own questions."""
    return hermes("ask", "sample", "--json", *FAST)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The same for people, with a memory map."""
    path = tmp_path_factory.mktemp("page") / "runs" / "map.png"
    return hermes("ask", "sample", "--memory-map", str(path), "video.fps=2", *FAST), path


@pytest.mark.model
def test_json_has_one_object_a_question(sample: Result) -> None:
    assert sample.code == 0
    asked = read_questions(QUESTIONS)
    assert [record["question"] for record in sample.records] == [question.question for question in asked]
    for record, question in zip(sample.records, asked, strict=True):
        assert set(record) >= FIELDS
        assert record["time_s"] == question.time
        assert record["frames_seen"] == math.ceil((question.time or 0) * 0.5)
        assert max(record["tokens_per_layer"]) <= BUDGET + min(record["tokens_per_layer"])
        assert len(record["tokens_per_layer"]) == 10
        assert isinstance(record["correct"], bool)
        assert record["ttft_ms"] > 0
        assert record["memory_bytes"] > 0
        assert record["peak_memory_bytes"] > 0
        assert (record["choice"] is None) == (not question.choices)
        if question.choices:
            assert sum(record["probabilities"].values()) == pytest.approx(1)
            assert record["choice"] == max(record["probabilities"], key=record["probabilities"].__getitem__)
            right = question.choices["ABCD".index(record["choice"])] == question.answer
            assert record["correct"] == right
        known = {"policy": "hermes", "backbone": "tiny_llava_onevision", "budget": BUDGET, "seed": 0}
        assert {key: record[key] for key in known} == known
        assert record["versions"]["torch"]
        assert record["warnings"] == []


@pytest.mark.model
def test_last_memory_is_within_budget_and_prefix(sample: Result) -> None:
    shortest = hermes("ask", "sample", "q", "--json", "--at", "0.1", "video.fps=1", *FAST).records[0]
    prefix = shortest["tokens_per_layer"][0] - 9  # one frame
    assert sample.records[-1]["tokens_per_layer"] == [prefix + BUDGET] * 10


@pytest.mark.model
def test_same_seed_same_answers(sample: Result) -> None:
    again = hermes("ask", "sample", "--json", *FAST)
    assert [r["answer"] for r in again.records] == [r["answer"] for r in sample.records]
    assert [r["config_hash"] for r in again.records] == [r["config_hash"] for r in sample.records]


@pytest.mark.model
def test_encoding_once_sees_what_a_question_alone_would_see(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    lines = [
        {"question": "Late?", "time": 30},
        {"question": "At the end?"},
        {"question": "Early?", "time": 9.5},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    # With eviction, what is encoded later depends on where a question has cut the chunks.
    fast = ("--json", "policy=full", "video.fps=1", *FAST)
    together = hermes("ask", "sample", "--questions", str(file), *fast).records
    assert [record["question"] for record in together] == ["Early?", "Late?", "At the end?"]
    assert [record["time_s"] for record in together] == [9.5, 30, 48]
    assert [record["frames_seen"] for record in together] == [10, 30, 48]
    alone = [
        hermes("ask", "sample", "Early?", "--at", "9.5", *fast).records[0],
        hermes("ask", str(CLIP), "Late?", "--at", "30", *fast).records[0],
        hermes("ask", "sample", "At the end?", *fast).records[0],
    ]
    assert [record["answer"] for record in together] == [record["answer"] for record in alone]


@pytest.mark.model
def test_page_for_people(page: tuple[Result, Path]) -> None:
    result, path = page
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "\x1b" not in result.err
    for question in read_questions(QUESTIONS):
        assert f"{question.time:g} s  {question.question}" in result.out
    assert re.search(r"sensory +0 +\d+ = \d+ prefix \+ 64 video", result.out)
    assert re.search(r"long_term +7-9 ", result.out)
    for word in ("TTFT", "TPOT", "encoding", "compression", "peak", "of 8 right", f"memory map: {path}"):
        assert word in result.out
    assert "the weights are random: answers mean nothing; name a checkpoint with backbone=" in result.err
    assert path.stat().st_size > 10_000
    assert path.with_suffix(".csv").read_text().startswith("layer,frame,time_s,tokens,summaries\n")


@pytest.mark.model
def test_what_a_probe_saw_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "seen.pt"
    watched = ("probe=attention_mass", "probe.only=[0,9]", "--probe-result", str(path))
    done = hermes("ask", "sample", "Which?", "--at", "6", *watched, *FAST)
    assert done.code == 0, done.err
    assert f"the probe's result: {path}" in done.out
    kept = torch.load(path)
    assert set(kept["result"]) == {0, 9}
    # The question's own attention to the 3 frames before it, and the prefix; the rest is the question's.
    for mass in kept["result"].values():
        assert mass.shape[:2] == (1, 1)
        assert mass.shape[2] > 3
        assert 0 < float(mass.sum()) < 1
    assert kept["run"]["seed"] == 0
    assert "attention_mass" in kept["settings"]


@pytest.mark.model
def test_choices_in_both_forms() -> None:
    fast = ("--json", "--at", "6", *FAST)
    spread = hermes("ask", "sample", "Which?", "--choices", "red", "blue", *fast).records[0]
    each = hermes("ask", *FAST, "sample", "--choices", "red", "Which?", "--choices=blue", "--json", "--at=6")
    assert list(spread["probabilities"]) == ["A", "B"]
    assert each.code == 2
    assert "no QUESTION" in each.err
    repeated = hermes("ask", "sample", "Which?", "--choices=red", *fast, "--choices=blue").records[0]
    assert repeated["probabilities"] == spread["probabilities"]


@pytest.mark.model
def test_start_and_end() -> None:
    record = hermes(
        "ask", "sample", "q", "--start", "10", "--end", "20", "--json", "video.fps=1", *FAST
    ).records[0]
    assert (record["time_s"], record["frames_seen"]) == (20, 10)


@pytest.mark.model
def test_configurations_are_called_by_their_own_name() -> None:
    for name in ("fifo", "fifo_frame"):
        assert hermes("ask", "sample", "q", "--json", f"policy={name}", *FAST).records[0]["policy"] == name


@pytest.mark.model
def test_what_a_plug_in_prints_stays_out_of_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    flush = StreamSession.flush

    def chatty(self: StreamSession) -> None:
        sys.stdout.write("hello\n")
        flush(self)

    monkeypatch.setattr(StreamSession, "flush", chatty)
    result = hermes("ask", "sample", "q", "--json", *FAST)
    assert len(result.records) == 1
    assert "hello" in result.err


@pytest.mark.model
def test_truncated_video_is_answered_with_a_warning(tmp_path: Path) -> None:
    data = CLIP.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    result = hermes("ask", str(cut), "q", "--json", *FAST)
    assert result.code == 0
    (record,) = result.records
    lost = re.search(r"warning: .*the last ([\d.]+) s of 48\.0 s are lost", result.err)
    assert lost is not None
    assert record["warnings"]
    assert "are lost" in record["warnings"][0]
    assert record["time_s"] == pytest.approx(48 - float(lost[1]), abs=2)  # one sample
    # A time that the file declares, and whose pictures are not there any more.
    late = hermes("ask", str(cut), "q", "--at", "45", "--json", *FAST)
    assert late.code == 2
    assert "the question time 45 s is past the end (" in late.err
