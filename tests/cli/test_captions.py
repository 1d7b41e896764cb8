"""Questions to files of captions, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import hermes

pytestmark = pytest.mark.model

MODEL = ("backbone=tiny_text", "policy.budget=30", "generation.max_new_tokens=3")


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    path = tmp_path / "film.srt"
    cues = [f"{i}\n00:00:{i:02},000 --> 00:00:{i + 1:02},000\nNow it is {i}.\n" for i in range(1, 21)]
    path.write_text("\n".join(cues))
    return path


def test_captions_are_asked_like_a_video(captions, tmp_path):
    done = hermes("ask", str(captions), "What is it now?", "--at", "10.5", "--json", *MODEL)
    (row,) = done.records
    assert row["time_s"] == 10.5
    assert row["frames_seen"] == 10
    drawn = tmp_path / "map.png"
    (row,) = hermes(
        "ask", str(captions), "What?", "--json", "--memory-map", str(drawn), "policy=streaming_llm", *MODEL
    ).records
    assert row["frames_seen"] == 20
    assert drawn.exists()
    prefix = min(row["tokens_per_layer"]) - 30
    assert row["tokens_per_layer"] == [prefix + 30] * 10


def test_a_text_model_is_not_asked_about_a_video_nor_one_that_sees_about_captions(captions):
    done = hermes("ask", "sample", "What?", *MODEL)
    assert done.code
    assert "this model reads text: feed captions" in done.err
    done = hermes("ask", str(captions), "What?", "backbone=tiny_llava_onevision")
    assert done.code
    assert "is a text, and this model is shown pictures" in done.err
