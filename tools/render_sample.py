"""Make the bundled sample clip and its questions: `python tools/render_sample.py [FOLDER]`.

A walk of Wanderer's test split, 48 seconds, one picture a second, enlarged and held so that it plays in any
player. Nothing is chosen by hand but the seed and the kinds of questions.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hermes.data.wanderer import Walk, Wanderer, WorldConfig
from hermes.samples import CLIP
from hermes.video import write_video

FPS = 10
ENLARGED = 8
SEED = 11
KINDS = [
    *("now_place", "past_colour", "past_shape", "object_place"),
    *("saw_object", "visited", "first_place", "order"),
]


def walk() -> Walk:
    """The stream and its questions, each multiple choice with a chance of one half."""
    world = WorldConfig(length=48)
    return Wanderer(questions=8, kinds=KINDS, choices=0.5, late=0.3, seed=SEED, world=world)[0]


def frames() -> Iterator[np.ndarray]:
    """Pictures of 256x256 pixels, `FPS` a second."""
    block = np.ones((ENLARGED, ENLARGED, 1), np.uint8)
    for frame in walk().frames():
        for _ in range(FPS):
            yield np.kron(frame.image, block)


def questions() -> list[dict[str, object]]:
    """The questions in order of time, as `hermes ask --questions` reads them."""
    return [
        {
            "question": question.text,
            "time": float(question.time),
            **({"choices": list(question.options)} if question.options else {}),
            "answer": question.answer,
        }
        for question in walk().questions
    ]


def main(folder: Path = CLIP.parent) -> None:
    """Write ``clip.mp4`` and ``questions.jsonl``."""
    write_video(folder / "clip.mp4", frames(), fps=FPS, crf=20)
    lines = "".join(json.dumps(question) + "\n" for question in questions())
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
