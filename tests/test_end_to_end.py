"""A real mp4 through each family, from the file to the answer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hermes
from hermes.samples import CLIP
from hermes.video import write_video

FAMILIES = ("tiny_llava_onevision", "tiny_qwen2_5_vl", "tiny_qwen3_vl")
SHORT = ["generation.max_new_tokens=6", "video.fps=2"]


@pytest.mark.model
@pytest.mark.parametrize("policy", ["hermes", "hermes_release", "fifo_frame", "recent"])
@pytest.mark.parametrize("family", FAMILIES)
def test_mp4_to_answer(family: str, policy: str) -> None:
    answers = []
    for _ in range(2):
        with hermes.open_session(family, policy, budget=64, overrides=SHORT) as session:
            session.feed(hermes.open_source(CLIP, fps=session.fps))
            before = [tensor.clone() for tensor in session.memory.state()]
            answer = session.ask("What is happening?")
            again = session.ask("What is happening?", ["a circle", "a square"])
            assert all(torch.equal(a, b) for a, b in zip(before, session.memory.state(), strict=True))
        assert answer.frames_seen == 96
        assert max(answer.tokens_per_layer) <= 64 + session.memory.prefix
        assert again.choice in ("A", "B")
        assert again.probabilities is not None
        assert sum(again.probabilities.values()) == pytest.approx(1)
        answers.append((answer.ids.tolist(), again.ids.tolist(), again.probabilities))
    assert answers[0] == answers[1]


@pytest.mark.model
def test_questions_see_only_frames_before_them() -> None:
    """An answer in the middle of a stream equals the answer of a stream that ends there."""
    with hermes.open_session("tiny_llava_onevision", budget=64, overrides=SHORT) as whole:
        seen = []
        for _ in whole.watch(hermes.open_source(CLIP, fps=2), [7.5, 20.0]):
            seen.append(whole.ask("What now?"))
    with hermes.open_session("tiny_llava_onevision", budget=64, overrides=SHORT) as cut:
        cut.feed(hermes.open_source(CLIP, fps=2, end=7.5))
        first = cut.ask("What now?")
    assert [answer.frames_seen for answer in seen] == [15, 40]
    assert seen[0].ids.tolist() == first.ids.tolist()


def moving(frames: int) -> object:
    ground = (np.random.RandomState(0).rand(360, 640, 3) * 80).astype(np.uint8)
    for i in range(frames):
        image = ground.copy()
        image[100:200, (7 * i) % 560 :][:, :80] = [(3 * i) % 255, 200, (11 * i) % 255]
        yield image


@pytest.mark.thorough
@pytest.mark.model
def test_memory_is_flat(tmp_path: Path) -> None:
    """Six times the frames: the same bytes of memory, the same peak of the process within 5 %."""
    found = []
    for frames in (100, 600):
        video = tmp_path / f"{frames}.mp4"
        write_video(video, moving(frames), 1.0)  # type: ignore[arg-type]
        command = [sys.executable, "-m", "hermes", "ask", str(video), "What?", "--json", "policy.budget=256"]
        options = ["video.fps=1", "generation.max_new_tokens=4"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
        assert found[-1]["frames_seen"] == frames
    assert found[0]["memory_bytes"] == found[1]["memory_bytes"]
    assert found[1]["peak_memory_bytes"] <= 1.05 * found[0]["peak_memory_bytes"]
