"""A memory in calls that are not a session's own: ``model.generate(..., past_key_values=memory)``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from hermes.attention.memory_attention import memory_attention_set, reading
from hermes.errors import HermesError, InputError
from hermes.memory import KVMemory

__all__ = ["Lender", "lending"]

# Per decoder, the memories that its next calls may bring: by identity, with whether they stay for long.
_expected: WeakKeyDictionary[Any, dict[int, tuple[ref[KVMemory], bool]]] = WeakKeyDictionary()
_lock = RLock()


class Lender:
    """Lends the forks of a session's memory to its model, for one forward of the decoder at a time.

    transformers asks a cache right before each forward whether it can be compiled. Then the decoder's next
    call is given what a session gives it: memory attention, the mask, and positions behind the memory. The
    model is as it was once that call has ended, with an answer or with an error.

    Args:
        model: the session's.
        live: the session's own memory, which is not lent: what is written to it would stay.
    """

    def __init__(self, model: Any, live: KVMemory) -> None:
        self._model = model
        self._live = ref(live)

    def __call__(self, memory: KVMemory) -> None:
        """Let the next call of the decoder read ``memory``.

        Raises:
            HermesError: it is the session's own.
        """
        if memory is self._live():
            raise HermesError(
                "the session's own memory would keep what the model reads and writes now: give it a fork, as "
                "in model.generate(..., past_key_values=session.memory.fork())"
            )
        _expect(self._model, memory, stays=False)


@contextmanager
def lending(model: Any, memory: KVMemory) -> Iterator[None]:
    """Let ``model`` read a memory inside this context, in any call that brings it as ``past_key_values``."""
    _expect(model, memory, stays=True)
    try:
        yield
    finally:
        _forget(ref(model.get_decoder()), id(memory))


def _expect(model: Any, memory: KVMemory, *, stays: bool) -> None:
    decoder = model.get_decoder()
    with _lock:
        expected = _expected.setdefault(decoder, {})
        if not expected:
            _wrap(model, decoder)
        if id(memory) not in expected or stays:
            gone = functools.partial(_forget, ref(decoder), id(memory))
            expected[id(memory)] = (ref(memory, lambda _: gone()), stays)


def _forget(decoder: ref[Any], number: int) -> None:
    """Expect a memory no longer; the decoder is as it was once none is expected."""
    with _lock:
        module = decoder()
        expected = _expected.get(module) if module is not None else None
        if expected is not None and expected.pop(number, None) is not None and not expected:
            _unwrap(module)


def _wrap(model: Any, decoder: Any) -> None:
    own = vars(decoder).get("forward")
    inner: Callable[..., Any] = decoder.forward

    @functools.wraps(inner)
    def forward(*args: Any, **given: Any) -> Any:
        memory = given.get("past_key_values")
        with _lock:
            found = _expected.get(decoder, {}).get(id(memory))
            if found is None:
                memory = None
            elif not found[1]:
                _forget(ref(decoder), id(memory))
        if memory is None:
            return inner(*args, **given)
        with memory_attention_set(model, whole=False), reading(memory):
            return inner(*args, **_placed(memory, given))

    # What accelerate may have put there comes back afterwards.
    forward.before = own  # type: ignore[attr-defined]
    decoder.forward = forward


def _unwrap(decoder: Any) -> None:
    before = decoder.forward.before
    del decoder.forward
    if before is not None:
        decoder.forward = before


def _placed(memory: KVMemory, given: dict[str, Any]) -> dict[str, Any]:
    """A decoder's keywords with the tokens behind the memory: their positions and their mask."""
    new = given["input_ids"] if given.get("inputs_embeds") is None else given["inputs_embeds"]
    batch, length = new.shape[:2]
    if memory.batch_size == 1 < batch:
        # Beams, several answers, or several questions to one stream.
        memory.batch_repeat_interleave(batch)
    if memory.batch_size not in (0, batch):
        raise InputError(f"{batch} texts for a memory of {memory.batch_size} streams: give one text a stream")
    pending = memory.managed[0].pending
    mask = given.get("attention_mask")
    positions = given.get("position_ids")
    if positions is None:
        positions = torch.arange(length, device=new.device).expand(batch, -1)
    # [A, B, n]
    axes = positions if positions.ndim == 3 else positions.expand(batch, -1)[None]
    written = torch.ones(batch, length, dtype=torch.bool, device=axes.device)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        written = mask[:, -length:].to(written)
    first = axes.masked_fill(~written, torch.iinfo(axes.dtype).max).amin((0, 2))
    if pending == 0:
        # They were counted from the caller's own first token, whatever that has been given.
        start = first - first.min() + memory.next_position
    else:
        # Text goes on where its row ended: the model counts on by what it saw in another call, of others too.
        start = memory.lent_next.to(first).repeat_interleave(batch // len(memory.lent_next))
    moved = axes + (start - first)[None, :, None]
    memory.lent_next = moved.masked_fill(~written, -1).amax((0, 2)) + 1
    return {
        **given,
        "position_ids": moved if positions.ndim == 3 else moved[0],
        # Other forms were made for another attention than ours; the decoder makes its own.
        "attention_mask": _mask(memory, mask, pending + length) if isinstance(mask, Tensor) else None,
    }


def _mask(memory: KVMemory, mask: Tensor, length: int) -> Tensor | None:
    """A padding mask over everything that has a position; None where the last ``length`` tokens are whole."""
    if mask.ndim != 2 or bool(mask[:, -length:].all()):
        return None
    behind = mask[:, -length:]
    return torch.cat((behind.new_ones(len(behind), memory.managed[0].start), behind), dim=1)
