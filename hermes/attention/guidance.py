"""What a policy may ask about attention, and the interface that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from hermes.attention.probe import AttentionProbe
from hermes.memory import KVMemory
from hermes.tokens import Chunk

__all__ = ["Guidance", "Mode", "Observer", "SecondReading"]

Mode = Literal["exact", "embedding"]


@dataclass(frozen=True)
class Guidance:
    """What a scorer wants to know: the attention of a text to the video tokens.

    Source: arXiv 2601.14724, Sec. 3.1 (pseudo-queries); ``embedding`` as its release.

    Attributes:
        text: the pseudo-query.
        mode: ``exact``, a true forward of the text over the memory; or ``embedding``, in which every layer
            reads the text's input embeddings (the release's shortcut: cheaper, and not what the model sees).
        per_head: one row per KV head instead of the mean over heads.
        half: round logits and probabilities to float16 (the release, for Qwen2.5-VL).
        among: the softmax is over everything held and the text itself, or over the video tokens alone.
        pool: mean over query tokens and heads, or the largest.
        control: control tokens in the text are recognised, as in parts of the chat template; else they are
            read as plain text.
    """

    text: str
    mode: Mode = "exact"
    per_head: bool = False
    half: bool = False
    among: Literal["all", "video"] = "all"
    pool: Literal["mean", "max"] = "mean"
    control: bool = False


@dataclass(frozen=True)
class SecondReading:
    """How the newest chunk is read once more, right after the first time.

    A pseudo-query made of the chunk's own embeddings: no question and no guidance prompt is needed. Source of
    the idea: arXiv 2505.23416 (KVzip), Sec. 3, which repeats a text; reading a stream's chunks again is ours.

    Attributes:
        stride: every n-th token of the chunk is read.
        always: after every chunk; or only where tokens are about to be evicted.
        lead: text before it, in which control tokens are recognised.
        tail: the chat template's tail, where an answer begins, follows the lead.
    """

    stride: int = 1
    always: bool = True
    lead: str = ""
    tail: bool = False


@runtime_checkable
class Observer(Protocol):
    """Answers requests for attention on behalf of a policy, which knows no model.

    Source: arXiv 2601.14724, Sec. 3.1. A session hands its own to every hook that may ask.

    Attributes:
        memory: what is attended to.
    """

    memory: KVMemory

    def attention(
        self, requests: Mapping[int, Sequence[Guidance]]
    ) -> dict[tuple[int, Guidance], Float[Tensor, "B R V"]]:
        """Attention to each video token, for every layer and guidance asked for.

        Args:
            requests: what is wanted at each layer index.

        Returns:
            by (layer, guidance): softmax over everything held and the pseudo-query itself, or as ``among``
            says; mean over heads and query tokens, or as ``pool`` and ``per_head`` say; restricted to the
            tokens after the prefix. R is 1, or the number of KV heads with ``per_head`` or where heads hold
            tokens of their own.
        """

    def over(self, memory: KVMemory) -> Observer:
        """The same, over another memory of the same model."""

    def queries(self, text: str) -> list[Float[Tensor, "B Hq n D"]]:
        """Every layer's queries of a text before rotation, from a true forward of it over the memory.

        Control tokens in the text are read as plain text.
        """

    def read(self, chunk: Chunk, into: KVMemory) -> None:
        """Read a chunk into another memory of the same model, or of its first layers alone."""

    def read_again(self, how: SecondReading, probe: AttentionProbe) -> None:
        """Read the newest chunk once more behind the memory, shown to a probe; nothing of it stays.

        The memory holds the chunk already. Nothing happens where no chunk was read.
        """
