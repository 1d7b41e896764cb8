"""Which memory the running forward pass reads."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from hermes.errors import HermesError

__all__ = ["Scope", "being_read", "check_scope", "current_scope"]


@dataclass(kw_only=True)
class Scope:
    """Who reads a memory: the least that its layers must know of the call that runs them.

    Attributes:
        layers: of the memory that is read.
        attended: whether our attention function has run: without it a memory is read wrongly.
    """

    layers: Sequence[object]
    attended: bool = False


# Attention functions receive no cache, and `generate` passes on no keyword it does not know, so the memory
# of the running call is found here. A context variable is private to the thread and the call.
current_scope: ContextVar[Scope | None] = ContextVar("hermes_attention_scope", default=None)


def being_read(layers: Sequence[object]) -> bool:
    """Whether the running call reads the memory with these layers."""
    scope = current_scope.get()
    return scope is not None and scope.layers is layers


def check_scope(layer: object, index: int, length: int) -> None:
    """Refuse a forward pass that would read a memory wrongly: silently, were it let through.

    Args:
        layer: the layer that is about to be read, of this index and with so many tokens.

    Raises:
        HermesError: the running call is not inside ``reading(memory)`` for the layer's memory, or the
            model's attention is not set (``memory_attention_set(model)``).
    """
    scope = current_scope.get()
    if scope is None or scope.layers[index] is not layer:
        if length:
            raise HermesError(
                "a memory needs its own attention: call the model as model.generate(..., past_key_values="
                "session.memory.fork()), or inside `with session.reading() as memory:`; in code of your own, "
                "inside hermes.attention.reading(memory)"
            )
    elif index and not scope.attended:
        raise HermesError(
            "memory attention is not set: run inside hermes.attention.memory_attention_set(model)"
        )
