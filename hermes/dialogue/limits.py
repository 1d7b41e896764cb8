"""How long a question may be, and how much of a round the memory's guidance reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hermes.config import Settings, setting
from hermes.dialogue.rounds import Round

__all__ = ["QuestionConfig", "guiding_round"]


@dataclass
class QuestionConfig(Settings):
    """What a question may be, and what is remembered of it (settings ``question.*``).

    A chunk after a question is compressed with the question in its guidance prompts. What stands there is
    limited, so that no question makes later chunks dear; an ordinary one is shorter and stands there whole.
    """

    max_tokens: int = setting(
        4096, help="longest question, its options included; a longer one is refused", unit="tokens", ge=1
    )
    guiding_tokens: int = setting(
        128,
        help="of the last round in the guidance prompts: the end of the question, where it asks, and the "
        "beginning of the answer",
        unit="tokens",
        ge=1,
    )
    history_rounds: int = setting(100, help="newest rounds that a stream remembers", unit="rounds", ge=1)


def guiding_round(last: Round, most: int, count: Callable[[str], int]) -> Round:
    """A round as guidance prompts show it: the end of its question, and the beginning of its answer.

    Args:
        last: the round; it is returned as it is where it fits.
        most: tokens of the question, and of the answer.
        count: tokens of a text.

    >>> guiding_round(Round("Once more: who is there?", "a cat"), 13, len).question
    'who is there?'
    """
    question = _clipped(last.question, most, count, "last")
    answer = _clipped(last.answer_text, most, count, "first")
    fits = (question, answer) == (last.question, last.answer_text)
    return last if fits else Round(question, answer)


def _clipped(text: str, most: int, count: Callable[[str], int], keep: Literal["first", "last"]) -> str:
    """The longest beginning or end of a text that has at most ``most`` tokens."""
    # A token is at least a byte.
    if len(text.encode()) <= most:
        return text
    fits, over = 0, len(text) + 1
    while over - fits > 1:
        # The whole text first: it fits as a rule.
        size = (fits + over) // 2 if over <= len(text) else len(text)
        if count(text[:size] if keep == "first" else text[len(text) - size :]) <= most:
            fits = size
        else:
            over = size
    return text[:fits] if keep == "first" else text[len(text) - fits :]
