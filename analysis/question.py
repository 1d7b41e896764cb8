"""What a question, or any other text, looks at: a probe, and how to put it to a session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hermes import AttentionProbe, AttentionView, Chunk, Provenance, StreamSession, setting
from hermes.decoding.prefill import prefill
from hermes.session.answer import Answer

from .mass import LayerMass

__all__ = ["QuestionProbe", "ask_watched", "read_watched"]


@dataclass
class QuestionProbe(AttentionProbe):
    """Attention of what is read at a question to everything held, per layer; its answer is not watched.

    Source: arXiv 2601.14724, Sec. 2 (mean over heads and query tokens). The mean is over all tokens that are
    read with the question: its own, those of its options, of the chat template behind it, and of the
    beginning of the answer where that is given. Of several texts read one after the other the last one
    counts, so that an image newline before the question does not.

    >>> QuestionProbe(now=12.0).result()
    []
    """

    now: float = setting(0.0, help="when it is asked, from which ages count", unit="s", ge=0)
    per_head: bool = setting(False, help="one row per KV head instead of the mean over heads")
    # Per layer: mass [R, T], provenance table [8, R or 1, T].
    _seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def observe(self, view: AttentionView) -> None:
        """Keep the mass of one layer, unless the queries follow tokens that are not part of the memory."""
        if view.own.shape[2] > view.query.shape[2]:
            return
        # Heads that hold tokens of their own have no common mean.
        mass = view.mass(per_head=self.per_head or view.layer.rows > 1)
        self._seen[view.index] = mass[0], view.tokens.table[:, 0]

    def result(self) -> list[list[LayerMass]]:
        """What was looked at: for every layer, one entry, or one a KV head."""
        if not self._seen:
            return []
        tables = {layer: Provenance(table.cpu()) for layer, (_, table) in self._seen.items()}
        # The grid's width, from whatever tokens of it are held in any layer.
        width = max(1 + int(tokens.col.max()) for tokens in tables.values())
        out = []
        for layer, tokens in sorted(tables.items()):
            mass = self._seen[layer][0].double().cpu().numpy()
            patch = torch.where(tokens.col < 0, -1, tokens.row * width + tokens.col)
            columns = (tokens.frame.numpy(), self.now - tokens.time.numpy(), patch.numpy())
            rows = range(mass.shape[0])
            out.append([LayerMass(mass[r], *(c[min(r, len(c) - 1)] for c in columns)) for r in rows])
        return out


def ask_watched(
    session: StreamSession, question: str, choices: Sequence[str] = (), *, per_head: bool = False, **more: Any
) -> tuple[Answer, list[list[LayerMass]]]:
    """Ask a question and see what it looked at, with its options and the template (:class:`QuestionProbe`).

    Args:
        session: with frames seen.
        question, choices: as for ``session.ask``.
        per_head: one entry per KV head.
        more: anything else that ``session.ask`` takes.

    Returns:
        the answer, and per layer one entry, or one a KV head.

    Raises:
        InputError: a question that cannot be asked.
    """
    probe = QuestionProbe(session.now, per_head)
    answer = session.ask(question, choices, probe=probe, **more)
    return answer, probe.result()


def read_watched(session: StreamSession, text: str, *, per_head: bool = False) -> list[list[LayerMass]]:
    """See what any text looks at, such as a guidance prompt: read as plain text, without a chat template.

    Source: arXiv 2601.14724, Sec. 3.1 (the attention of a pseudo-query, by a true forward).

    Args:
        session: with frames seen; its memory stays as it is.
        text: the text.
        per_head: one entry per KV head.

    Returns:
        per layer one entry, or one a KV head.

    Raises:
        InputError: frames that cannot be encoded.
    """
    session.flush()
    backbone, probe = session.backbone, QuestionProbe(session.now, per_head)
    embeds = backbone.embed(backbone.encode_plain(text))
    # The text becomes part of a copy only.
    prefill(backbone, session.memory.fork(), Chunk.text(embeds, backbone.axes), probe=probe)
    return probe.result()
