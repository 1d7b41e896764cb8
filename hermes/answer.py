"""What a question gets back, and what a session counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Int
from torch import Tensor

from hermes.prompts import letters


@dataclass
class Answer:
    """One answered question and what it cost (this project).

    Times are of the stream in seconds (``time_s``) or wall-clock in milliseconds (``*_ms``).
    """

    question: str
    time_s: float
    answer: str
    choice: str | None
    probabilities: dict[str, float] | None
    correct: bool | None
    ttft_ms: float
    tpot_ms: float | None
    frames_seen: int
    tokens_per_layer: list[int]
    memory_bytes: int
    peak_memory_bytes: int
    ids: Int[Tensor, " n"] = field(repr=False)


@dataclass
class Stats:
    """What a session has done so far; milliseconds are wall-clock sums (this project)."""

    frames: int = 0
    chunks: int = 0
    questions: int = 0
    encode_ms: float = 0.0
    compress_ms: float = 0.0
    tokens_per_layer: list[int] = field(default_factory=list)
    memory_bytes: int = 0


def is_correct(correct: str, given: str, choices: Sequence[str]) -> bool:
    """Whether an answer is right: by letter or option text if there are choices, else by its words.

    Source: this project.

    >>> is_correct("red", "B", ["blue", "red"]), is_correct("(A)", "A", ["x"]), is_correct("Two.", "two", [])
    (True, True, True)
    """
    names = letters(len(choices))
    if choices:
        wanted = correct.strip().strip("().")
        if wanted not in names and correct in choices:
            wanted = names[list(choices).index(correct)]
        return given == wanted
    return correct.strip().casefold().rstrip(".") == given.strip().casefold().rstrip(".")
