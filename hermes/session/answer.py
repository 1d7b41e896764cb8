"""What a question gets back, and what a session counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.backbone import Backbone
from hermes.decoding.generation import Generated
from hermes.dialogue import is_correct, letters
from hermes.dialogue.choices import lettered
from hermes.errors import InputError
from hermes.files import json_line
from hermes.machine.device import peak_memory_bytes


@dataclass
class Answer:
    """One answered question and what it cost.

    Times are of the stream in seconds (``time_s``) or wall-clock in milliseconds (``*_ms``);
    ``encode_ms`` and ``compress_ms`` are the sums over the stream so far. ``memory_bytes`` are those of the
    memory and of what the policy holds beside it, ``archived_bytes`` those it keeps elsewhere;
    ``bytes_by_kind`` are the memory's by the kind of layer, of which a policy decides about the managed ones.
    ``tokens_per_layer`` are in the memory, ``read_per_layer`` those the question was answered over, with what
    the policy recalled.
    """

    question: str
    time_s: float
    answer: str
    choice: str | None
    probabilities: dict[str, float] | None
    correct: bool | None
    ttft_ms: float
    tpot_ms: float | None
    encode_ms: float
    compress_ms: float
    frames_seen: int
    tokens_per_layer: list[int]
    memory_bytes: int
    peak_memory_bytes: int
    ids: Int[Tensor, " n"] = field(repr=False)
    archived_bytes: int = 0
    read_per_layer: list[int] = field(default_factory=list)
    bytes_by_kind: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        said = self.answer if len(self.answer) <= 60 else f"{self.answer[:57]}..."
        choice = "" if self.choice is None else f", choice={self.choice!r}"
        correct = "" if self.correct is None else f", correct={self.correct}"
        return f"Answer({said!r}{choice}{correct}, time_s={self.time_s:g}, ttft_ms={self.ttft_ms:.3g})"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, the tokens as a list of ids."""
        return {one.name: getattr(self, one.name) for one in fields(self)} | {"ids": self.ids.tolist()}

    def to_json(self) -> str:
        """One line of JSON; a number that JSON does not have becomes null."""
        return json_line(self.to_dict()).strip()

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        made: Generated,
        stats: Stats,
        question: str,
        choices: Sequence[str],
        correct: str | None,
        lead: str = "",
        *,
        time_s: float,
        read_per_layer: list[int],
    ) -> Answer:
        """The answer that generated tokens stand for, with what the session's counts say of its cost."""
        text = backbone.decode(made.ids).strip()
        tokens = (
            first_tokens(backbone.encode_plain, choices)
            if lead
            else letter_tokens(backbone.encode, len(choices))
        )
        odds = odds_of(made.first_logits, tokens)
        choice = max(odds, key=lambda name: odds[name]) if odds else None
        if lead and choice is not None:
            text = lettered(choices)[choice]
        return cls(
            question=question,
            time_s=time_s,
            answer=text,
            choice=choice,
            probabilities=odds or None,
            correct=None if correct is None else is_correct(correct, choice or text, choices),
            ttft_ms=1e3 * made.ttft,
            tpot_ms=None if made.tpot is None else 1e3 * made.tpot,
            encode_ms=stats.encode_ms,
            compress_ms=stats.compress_ms,
            frames_seen=stats.frames,
            tokens_per_layer=stats.tokens_per_layer,
            memory_bytes=stats.memory_bytes,
            peak_memory_bytes=peak_memory_bytes(backbone.device),
            ids=made.ids,
            archived_bytes=stats.archived_bytes,
            read_per_layer=read_per_layer,
            bytes_by_kind=stats.bytes_by_kind,
        )


@dataclass
class Stats:
    """What a session has done so far; milliseconds are wall-clock sums."""

    frames: int = 0
    chunks: int = 0
    questions: int = 0
    encode_ms: float = 0.0
    compress_ms: float = 0.0
    tokens_per_layer: list[int] = field(default_factory=list)
    memory_bytes: int = 0
    archived_bytes: int = 0
    bytes_by_kind: dict[str, int] = field(default_factory=dict)


def letter_tokens(encode: Callable[[str], Tensor], count: int) -> list[int]:
    """The token of each option's letter, ``count`` of them."""
    return [int(encode(name)[0, -1]) for name in letters(count)]


def first_tokens(encode: Callable[[str], Tensor], choices: Sequence[str]) -> list[int]:
    """The first token of each option, as it stands behind other words.

    Raises:
        InputError: two options begin with the same one.
    """
    found: dict[int, str] = {}
    for choice in choices:
        token = int(encode(f" {choice}")[0, 0])
        if token in found:
            raise InputError(
                f"the options {found[token]!r} and {choice!r} begin with the same token, which is to tell "
                "them apart: ask without what the answer begins with (lead), or with other options"
            )
        found[token] = choice
    return list(found)


def odds_of(logits: Float[Tensor, " vocab"], tokens: Sequence[int]) -> dict[str, float]:
    """Softmax of the first token's logits over the options' tokens, by the options' letters."""
    if not tokens:
        return {}
    odds = logits.cpu()[torch.tensor(tokens)].softmax(-1)
    return dict(zip(letters(len(tokens)), odds.tolist(), strict=True))
