"""Streams and their questions as rows of tokens, each question seeing its past and itself alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from hermes.config import Settings, setting
from hermes.data.wanderer.questions import KINDS, History, ask
from hermes.data.wanderer.world import Split, WorldConfig, sample_stream
from hermes.errors import SettingError, did_you_mean
from hermes.training.stories import STORIES, tell
from hermes.training.words import Prompt

__all__ = ["IGNORED", "KIND_NAMES", "NEWLINE", "Batch", "Mixture", "Packer"]

TOKENS_PER_FRAME = 4
IGNORED = -100
KIND_NAMES = (*KINDS, *(f"{kind}_choice" for kind in KINDS), *STORIES, "echo")
_TEXT, NEWLINE = -1, -2


@dataclass
class Mixture(Settings):
    """What rows are made of (settings of a stage).

    Raises:
        SettingError: a wrong setting.
    """

    length: list[int] = setting([8, 32], help="least and most seconds of a stream", unit="s")
    scene: list[int] = setting([3, 5], help="least and most mean length of a scene", unit="s")
    kinds: dict[str, float] = field(default_factory=dict, metadata={"help": "weight of a kind; default 1"})
    stories: float = setting(0.3, help="share of stories among the questions", ge=0, le=1)
    choices: float = setting(
        0.0,
        help="share of multiple choice drawn among the others; what does not fit a slot is drawn anew",
        ge=0,
        le=1,
    )
    echoes: float = setting(
        0.0, help="share of multiple-choice questions that name their answer, to teach letters", ge=0, le=1
    )
    newline: float = setting(
        0.2, help="share of questions after an image newline (native layout)", ge=0, le=1
    )
    gaps: float = setting(0.3, help="share of rows with gaps between positions", ge=0, le=1)
    gap: int = setting(1024, help="most positions left out in a row", ge=0)
    world: WorldConfig = setting(WorldConfig(), help="difficulty")

    def __post_init__(self) -> None:
        for name in ("length", "scene"):
            pair = getattr(self, name)
            if len(pair) != 2 or not 1 <= pair[0] <= pair[1]:
                raise SettingError(name, pair, "[least, most], from 1")
        if self.length[1] // 8 * 8 < self.length[0]:
            raise SettingError("length", self.length, "[least, most] with a multiple of 8 between them")
        for kind in self.kinds:
            if kind not in KIND_NAMES:
                raise SettingError("kinds", kind, KIND_NAMES, did_you_mean(kind, KIND_NAMES))


class Batch(NamedTuple):
    """Rows of N tokens: a context (prefix and frames), then slots with n tokens of questions in all.

    Attributes:
        ids: token ids; those of frames and newlines are replaced by features.
        look: ``code * 4 + token`` of a frame's token, -2 for an image newline, -1 for text.
        position: as a session counts them.
        target: the token to predict, or -100.
        hint: the same, but where a letter is due, the word it stands for; and at each option, its letter.
        kind: index into ``KIND_NAMES``, or -1.
        segment: of the n, number of the question; 0 for padding.
        seen: of the n, how many tokens of the context the question sees.
    """

    ids: Int[Tensor, "B N"]
    look: Int[Tensor, "B N"]
    position: Int[Tensor, "B N"]
    target: Int[Tensor, "B N"]
    hint: Int[Tensor, "B N"]
    kind: Int[Tensor, "B N"]
    segment: Int[Tensor, "B n"]
    seen: Int[Tensor, "B n"]

    @property
    def context(self) -> int:
        """Tokens of the context."""
        return self.ids.shape[1] - self.seen.shape[1]


class Packer:
    """Makes batches; batch ``step`` of a seed is always the same.

    Args:
        prompt: how text becomes tokens.
        rows: in a batch.
        slots: of questions in a row, each filled with as many as it holds.
        slot: tokens of a slot.
    """

    def __init__(
        self, prompt: Prompt, split: Split, seed: int, *, rows: int, slots: int, slot: int = 64
    ) -> None:
        self.prompt = prompt
        self.split = split
        self.seed = seed
        self.rows = rows
        self.slots = slots
        self.slot = slot
        self._prefix = prompt.prefix()
        self._options = {prompt.ids(letter)[0] for letter in "ABCD"}
        (self._closing,) = prompt.ids(")")

    def batch(self, mixture: Mixture, step: int) -> Batch:
        """Batch number ``step``; its streams are of about one length: up to 7 s below a multiple of 8."""
        least, most = mixture.length
        longest = 8 * int(
            np.random.default_rng((self.seed, 0, step)).integers((least + 7) // 8, most // 8 + 1)
        )
        rows = [
            self._row(mixture, step * self.rows + i, max(least, longest - 7), longest)
            for i in range(self.rows)
        ]
        return Batch(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))

    def _row(self, mixture: Mixture, index: int, least: int, most: int) -> tuple[np.ndarray, ...]:
        rng = np.random.default_rng((self.seed, 1, index))
        length = int(rng.integers(least, most + 1))
        scene = int(rng.integers(mixture.scene[0], mixture.scene[1] + 1))
        world = replace(mixture.world, length=length, scene=scene)
        stream = sample_stream(world, self.split, self.seed, index)

        start = len(self._prefix)
        end, context = start + length * TOKENS_PER_FRAME, start + most * TOKENS_PER_FRAME
        n = context + self.slots * self.slot
        ids, look, position = np.zeros(n, np.int64), np.full(n, _TEXT), np.zeros(n, np.int64)
        target, hints, kinds = np.full(n, IGNORED), np.full(n, IGNORED), np.full(n, -1)
        segment, seen = np.zeros(n, np.int64), np.full(n, start)
        ids[:start] = self._prefix
        look[start:end] = (stream.codes[:, None] * TOKENS_PER_FRAME + np.arange(TOKENS_PER_FRAME)).ravel()
        position[:end] = np.arange(end) + self._gaps(mixture, length, rng)

        used, number, misses = context, 0, 0
        while used < n:
            # Late in the stream more often than early.
            time = max(1, length - int(length * rng.random() ** 2 * 0.9))
            item = self._item(mixture, History(stream, time), rng)
            newline = int(rng.random() < mixture.newline)
            room = self.slot - (used - context) % self.slot
            if item is None or newline + len(item[1]) + len(item[2]) - 1 > room:
                misses += 1
                if misses == 5:
                    used, misses = used + room, 0
                continue
            kind, asked, answer, learned, hint = item
            size = newline + len(asked) + len(answer) - 1
            number += 1
            stop = used + size
            if newline:
                look[used] = NEWLINE
            ids[used + newline : stop] = [*asked, *answer[:-1]]
            visible = start + time * TOKENS_PER_FRAME
            position[used:stop] = position[visible - 1] + 1 + np.arange(size)
            segment[used:stop] = number
            seen[used:stop] = visible
            target[stop - len(answer) : stop] = np.where(learned, answer, IGNORED)
            hints[used + newline : stop - len(answer) + 1] = self._letters(asked)
            hints[stop - len(answer) : stop] = np.where(learned, hint, IGNORED)
            kinds[stop - len(answer) : stop] = kind
            used, misses = stop, 0
        return ids, look, position, target, hints, kinds, segment[context:], seen[context:]

    def _letters(self, asked: list[int]) -> Int[np.ndarray, " q"]:
        """Of each token of a question, the letter of the option it begins, or -100."""
        out = np.full(len(asked), IGNORED)
        for i, token in enumerate(asked[:-2]):
            if token in self._options and asked[i + 1] == self._closing:
                out[i + 2] = token
        return out

    def _gaps(self, mixture: Mixture, length: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
        """Positions skipped before each token, as after an eviction: at up to four frames, counted up."""
        frames = np.zeros(length, np.int64)
        if rng.random() < mixture.gaps:
            total = int(rng.integers(0, mixture.gap + 1))
            for share in rng.dirichlet(np.ones(4)):
                frames[int(rng.integers(0, length))] += int(share * total)
        spread = np.repeat(frames.cumsum(), TOKENS_PER_FRAME)
        return np.concatenate([np.zeros(len(self._prefix), np.int64), spread])

    def _item(
        self, mixture: Mixture, history: History, rng: np.random.Generator
    ) -> tuple[int, list[int], list[int], list[bool], list[int]] | None:
        prompt = self.prompt
        if rng.random() < mixture.stories:
            kind = self._choose(tuple(STORIES), mixture, rng)
            story = tell(kind, history, rng)
            if not story.words:
                return None
            words = [prompt.ids(w if w in ",;." else f" {w}")[0] for w in story.words]
            learned = [*story.learned, True]
            words.append(prompt.end)
            return KIND_NAMES.index(kind), prompt.question(story.prompt), words, learned, words
        kind = self._choose(tuple(KINDS), mixture, rng)
        choices = 4 if rng.random() < mixture.choices else 0
        question = ask(kind, history, rng, choices)
        if question is None:
            return None
        text = question.text
        echo = choices > 0 and rng.random() < mixture.echoes
        if echo:
            text = f"Which is the {question.answer}?"
        asked = prompt.question(text, question.options)
        hint = answer = [*prompt.ids(f" {question.answer}"), prompt.end]
        if choices:
            letter = "ABCD"[question.options.index(question.answer)]
            answer = [*prompt.ids(f"{letter})"), prompt.end]
            hint = [hint[0], IGNORED, IGNORED]
            kind = "echo" if echo else f"{kind}_choice"
        return KIND_NAMES.index(kind), asked, answer, [True] * len(answer), hint

    def _choose(self, names: tuple[str, ...], mixture: Mixture, rng: np.random.Generator) -> str:
        weights = np.array([mixture.kinds.get(name, 1.0) for name in names]).cumsum()
        return names[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]
