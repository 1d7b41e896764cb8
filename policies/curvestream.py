"""CurveStream: frames where the stream's features bend stay clear, others are blurred or dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.config import setting
from hermes.errors import SettingError
from hermes.policy import Buffering, StreamContext, blurred, cosine
from hermes.tokens import Chunk, TokenKind, split_frames

CLEAR, FUZZY, DROPPED = range(3)


@dataclass
class CurveStream(Buffering):
    """Hold the newest ``frames`` that are worth it, as embeddings that the decoder reads at each question.

    Source: arXiv 2603.19571. A frame's score is ``1 - cos(f, f') + bend (1 - cos(f - f', f' - f''))``: how
    far its feature has moved, and how far that motion has turned. By the running mean and deviation of scores
    it is clear (held whole), fuzzy (at a lower resolution) or dropped; the newest frame is held whole until
    the next one comes, and the oldest leaves first. Published: 20 frames, ``bend`` 0.2.

    Known of the paper are the score, the three states, thresholds of k deviations from a running mean, and
    first in, first out. Ours: a feature is the mean of a frame's embeddings, where the paper runs
    DINOv2-small; both k, ``decay``, that a frame is judged before it counts and the first two are clear; a
    fuzzy frame is the mean of every ``blur`` by ``blur`` tokens, where the paper encodes a smaller picture;
    the frames also fit ``budget``; positions are counted anew (``dense``).

    Raises:
        SettingError: ``fuzzy`` above ``clear``.
    """

    source: ClassVar[str] = "arXiv 2603.19571"

    budget: int = setting(4000, help="tokens held, and read by an answer", unit="tokens", ge=1)
    frames: int = setting(20, help="frames held at most", unit="frames", ge=1)
    bend: float = setting(0.2, help="weight of the turn of the motion", ge=0)
    decay: float = setting(0.9, help="of the running mean and variance, a frame", ge=0, lt=1)
    clear: float = setting(1.0, help="deviations above the mean from which a frame stays whole")
    fuzzy: float = setting(0.0, help="deviations above the mean below which a frame goes")
    blur: int = setting(2, help="tokens of a side that a fuzzy frame averages", unit="tokens", ge=1)
    dense: bool = setting(True, help="count positions anew, without the gaps of dropped tokens")

    def __post_init__(self) -> None:
        if self.fuzzy > self.clear:
            raise SettingError("fuzzy", self.fuzzy, f"at most clear, {self.clear:g}")

    def start(self, context: StreamContext) -> None:
        """Begin a stream, with no frame seen."""
        super().start(context)
        # Feature and motion [hidden] of the last frame, its state, and mean and variance of the scores.
        self.known: dict[str, Tensor] = {}
        self.grade, self.mean, self.variance = CLEAR, math.nan, 0.0

    def reduce(self, chunk: Chunk) -> Chunk:
        """Judge each frame, hold it whole, and let the one before become what it was found to be.

        Raises:
            SettingError: a budget below the tokens of one frame.
        """
        pieces = list(self.pieces)
        for frame in split_frames(chunk, self.clock):
            if (cost := len(frame)) > self.budget:
                raise SettingError("policy.budget", self.budget, f"at least {cost}, the tokens of one frame")
            if pieces and self.grade == FUZZY:
                pieces[-1] = blurred(pieces[-1], self.blur)
            elif pieces and self.grade == DROPPED:
                pieces.pop()
            visual = (frame.tokens.kind == int(TokenKind.VISUAL)).nonzero().flatten()
            self.grade = self._judged(frame.embeds[0, visual.to(frame.embeds.device)].float().mean(0))
            pieces.append(frame)
            most = max(self.frames // self.context.frames_per_group, 1)
            while len(pieces) > most or sum(map(len, pieces)) > self.budget:
                pieces.pop(0)
        self.pieces = tuple(pieces)
        return self.nothing(chunk)

    def _judged(self, feature: Float[Tensor, " hidden"]) -> int:
        last = {name: x.to(feature.device) for name, x in self.known.items()}
        self.known = {"feature": feature}
        if "feature" not in last:
            return CLEAR
        self.known["motion"] = motion = feature - last["feature"]
        score = 1 - float(cosine(feature, last["feature"]))
        if "motion" in last:
            score += self.bend * (1 - float(cosine(motion, last["motion"])))
        if math.isnan(self.mean):
            self.mean = score
            return CLEAR
        apart, deviation = score - self.mean, self.variance**0.5
        self.mean += (1 - self.decay) * apart
        self.variance = self.decay * (self.variance + (1 - self.decay) * apart**2)
        if apart >= self.clear * deviation:
            return CLEAR
        return FUZZY if apart >= self.fuzzy * deviation else DROPPED

    @property
    def resident_bytes(self) -> int:
        """Bytes of the frames, and of the last feature and motion."""
        return super().resident_bytes + sum(x.nbytes for x in self.known.values())

    def state(self) -> Mapping[str, Tensor]:
        """The frames, what the next one is compared with, and the running numbers."""
        numbers = torch.tensor([self.grade, self.mean, self.variance], dtype=torch.float64)
        return {**super().state(), "numbers": numbers, **self.known}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold what :meth:`state` gave."""
        own = {name: state[name] for name in ("feature", "motion", "numbers") if name in state}
        super().restore({name: x for name, x in state.items() if name not in own})
        grade, self.mean, self.variance = own.pop("numbers").tolist()
        self.grade, self.known = int(grade), own
