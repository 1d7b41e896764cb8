"""Callbacks: code that watches a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from hermes.config import Part

if TYPE_CHECKING:
    from hermes.session.answer import Answer
    from hermes.session.session import StreamSession
    from hermes.tokens import Chunk
    from hermes.video import Frame


class Callback(Part):
    """Watches a session; every method may be overridden and does nothing by default (this project)."""

    kind: ClassVar[str] = "callback"

    def on_encode_start(self, session: StreamSession, frames: Sequence[Frame]) -> None:
        """Before frames are encoded."""

    def on_encode_end(self, session: StreamSession, chunk: Chunk) -> None:
        """After a chunk is in the memory, not yet compressed."""

    def on_compress_start(self, session: StreamSession) -> None:
        """Before the policy's step."""

    def on_compress_end(self, session: StreamSession, changed: bool) -> None:
        """After the policy's step; ``changed``: whether it changed the memory."""

    def on_ask_start(self, session: StreamSession, question: str) -> None:
        """Before a question is answered."""

    def on_ask_end(self, session: StreamSession, answer: Answer) -> None:
        """After a question is answered."""
