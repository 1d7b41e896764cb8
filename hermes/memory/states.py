"""Layers of a memory that no policy manages: windows of tokens, states of fixed size, borrowed keys."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicSlidingWindowLayer, LinearAttentionLayer

from hermes.errors import InputError
from hermes.memory.kinds import LayerSpec
from hermes.tokens import Rotary

__all__ = ["RecurrentLayer", "SharedLayer", "StateLayer", "WindowLayer"]


class StateLayer:
    """What a memory asks of a layer whose content follows from the stream alone.

    A forward pass writes to it as to the family's own cache. The memory calls :meth:`begin` before the pass,
    and :meth:`commit` or :meth:`rollback` after it: until then :attr:`before` holds what was there.

    Attributes:
        number: of the decoder layer.
        spec: its kind.
    """

    number: int
    spec: LayerSpec
    before: Any

    @abstractmethod
    def begin(self) -> None:
        """A forward pass is about to write: what is held now must outlive it, here and in forks."""

    @abstractmethod
    def rollback(self) -> None:
        """Hold again what was held before the last pass."""

    def commit(self) -> None:
        """Take the tokens of the last pass in."""
        self.before = None

    @abstractmethod
    def fork(self) -> Any:
        """A copy that shares every tensor."""

    @abstractmethod
    def select(self, streams: Sequence[int]) -> None:
        """Keep only some streams of the batch."""

    def turn(self, distance: float) -> None:
        """The memory's next position moves by so much: keys follow."""

    @abstractmethod
    def reset(self) -> None:
        """Hold nothing."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor held, by name."""

    def facts(self) -> dict[str, Any]:
        """What a saved layer must hold besides its tensors."""
        return {"number": self.number}

    @abstractmethod
    def load(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Hold what :meth:`facts` and :meth:`tensors` gave.

        Raises:
            InputError: they do not fit each other.
        """

    def __repr__(self) -> str:
        held = sum(tensor.nbytes for tensor in self.tensors().values())
        return f"<{type(self).__name__} {self.number}: {held / 1e6:.3g} MB>"


class WindowLayer(StateLayer, DynamicSlidingWindowLayer):  # type: ignore[misc]
    """The last tokens of the stream, as the family's own sliding cache holds them.

    Its tokens are counted by itself (``cumulative_length``), and its masks with them. Its keys are rotated
    at the memory's shared clock; when that moves, they move with it, so that distances within the window
    are always those of the stream.

    Args:
        rotary: of this layer.
    """

    def __init__(self, number: int, spec: LayerSpec, rotary: Rotary) -> None:
        super().__init__(sliding_window=spec.window)
        self.keys: Any = None
        self.values: Any = None
        self.number, self.spec, self.rotary = number, spec, rotary
        self.before = None

    def begin(self) -> None:
        """Note what is held; a pass replaces tensors and changes none."""
        self.before = (self.keys, self.values, self.cumulative_length, self.is_initialized)

    def rollback(self) -> None:
        """Hold again what was held before the last pass."""
        if self.before is not None:
            self.keys, self.values, self.cumulative_length, self.is_initialized = self.before
            self.before = None

    def commit(self) -> None:
        """Keep the window alone, not the tensors that it is a view of."""
        self.before = None
        if self.is_initialized:
            self.keys, self.values = self.keys.contiguous(), self.values.contiguous()

    def fork(self) -> WindowLayer:
        """A copy that shares every tensor."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def select(self, streams: Sequence[int]) -> None:
        """Keep only some streams of the batch."""
        if self.is_initialized:
            self.keys, self.values = (_of(streams, x) for x in (self.keys, self.values))

    def turn(self, distance: float) -> None:
        """Rotate the keys by a distance, the same on every axis."""
        if self.is_initialized and distance and self.keys.shape[2]:
            keys = self.rotary.canonical(self.keys)
            shift = keys.new_full(
                (self.rotary.axes, len(keys), 1, keys.shape[2]), distance, dtype=torch.float32
            )
            self.keys = self.rotary.native(self.rotary.rotate(keys, shift))

    def reset(self) -> None:
        """Empty the window."""
        self.keys = self.values = self.before = None
        self.is_initialized, self.cumulative_length = False, 0

    def tensors(self) -> dict[str, Tensor]:
        """Keys and values, ``[B, H, T, D]``."""
        return {"keys": self.keys, "values": self.values} if self.is_initialized else {}

    def facts(self) -> dict[str, Any]:
        """Its number, and how many tokens have gone through it."""
        return {**super().facts(), "seen": self.cumulative_length}

    def load(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Hold keys and values of as many tokens as fit the window.

        Raises:
            InputError: others than those.
        """
        self.cumulative_length = int(facts.get("seen", 0))
        held = min(self.cumulative_length, self.sliding_window - 1)
        if not tensors and not self.cumulative_length:
            return
        if {"keys", "values"} != tensors.keys():
            raise InputError(
                f"{', '.join(sorted({'keys', 'values'} ^ tensors.keys()))}: missing, or too many"
            )
        for name, tensor in tensors.items():
            if tensor.ndim != 4 or tensor.shape[2] != held or tensor.shape[:2] != tensors["keys"].shape[:2]:
                raise InputError(f"{name}: shape {list(tensor.shape)}, for a window of {held} tokens")
        if tensors["keys"].shape[3] != 2 * len(self.rotary.frequencies):
            raise InputError(f"keys: shape {list(tensors['keys'].shape)}, which this decoder does not have")
        self.lazy_initialization(tensors["keys"], tensors["values"])
        self.keys, self.values = tensors["keys"], tensors["values"]


class RecurrentLayer(StateLayer, LinearAttentionLayer):  # type: ignore[misc]
    """States of fixed size of a linear attention, a state space or a convolution.

    transformers writes to them in place, so a pass gets copies of its own.
    """

    _NAMES = ("conv", "recurrent")

    def __init__(self, number: int, spec: LayerSpec) -> None:
        super().__init__(number_of_states=spec.states)
        self.number, self.spec = number, spec
        self.before = None

    @property
    def _parts(self) -> tuple[dict[int, Any], ...]:
        """Everything that a pass changes, by the number of the state."""
        return (
            self.conv_states,
            self.recurrent_states,
            self.is_conv_states_initialized,
            self.is_recurrent_states_initialized,
            self.has_previous_state,
            self.conv_kernel_size,
        )

    def _hold(self, parts: Sequence[Mapping[int, Any]]) -> None:
        (
            self.conv_states,
            self.recurrent_states,
            self.is_conv_states_initialized,
            self.is_recurrent_states_initialized,
            self.has_previous_state,
            self.conv_kernel_size,
        ) = (dict(part) for part in parts)

    def _replace(self, change: Any) -> None:
        """Hold what ``change`` makes of each tensor."""
        for states in (self.conv_states, self.recurrent_states):
            states.update({at: change(x) for at, x in states.items() if x is not None})

    def begin(self) -> None:
        """Note what is held, and hold copies of it."""
        self.before = self._parts
        self._hold(self.before)
        self._replace(Tensor.clone)

    def rollback(self) -> None:
        """Hold again what was held before the last pass."""
        if self.before is not None:
            self._hold(self.before)
            self.before = None

    def fork(self) -> RecurrentLayer:
        """A copy that shares every tensor."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._hold(self._parts)
        return other

    def select(self, streams: Sequence[int]) -> None:
        """Keep only some streams of the batch."""
        self._replace(lambda x: _of(streams, x))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every batch entry for beam search; called by transformers."""
        self._replace(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some batch entries; called by transformers."""
        self._replace(lambda x: x[indices.to(x.device)])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the batch in another order; called by transformers."""
        self.batch_select_indices(beam_idx)

    def reset(self) -> None:
        """Forget everything."""
        LinearAttentionLayer.__init__(self, number_of_states=self.spec.states)
        self.before = None

    def tensors(self) -> dict[str, Tensor]:
        """The states, ``conv0 [B, channels, width]``, ``recurrent0 [B, heads, ...]``, and so on."""
        states = zip(self._NAMES, (self.conv_states, self.recurrent_states), strict=True)
        return {f"{name}{at}": x for name, held in states for at, x in held.items() if x is not None}

    def load(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Hold these states.

        Raises:
            InputError: states that there are not, or of different numbers of streams.
        """
        known = {f"{name}{at}" for name in self._NAMES for at in range(self.number_of_states)}
        if unknown := sorted(tensors.keys() - known):
            raise InputError(f"{unknown[0]}: a state that there is not")
        if len({x.shape[0] for x in tensors.values()}) > 1:
            raise InputError("states of different numbers of streams")
        for name, x in tensors.items():
            at = int(name.removeprefix("conv").removeprefix("recurrent"))
            if name.startswith("conv"):
                self.lazy_initialization(conv_states=x, state_idx=at)
                self.conv_states[at] = x
            else:
                self.lazy_initialization(recurrent_states=x, state_idx=at)
                self.recurrent_states[at] = x
            self.has_previous_state[at] = True


class SharedLayer(StateLayer):
    """A layer that holds nothing: its attention reads the keys of an earlier one."""

    is_compileable = is_croppable = is_sliding = supports_early_init = False
    keys = values = None

    def __init__(self, number: int, spec: LayerSpec) -> None:
        self.number, self.spec = number, spec
        self.before = None

    def begin(self) -> None:
        """Nothing is held."""

    rollback = begin

    def fork(self) -> SharedLayer:
        """Itself, as nothing in it changes."""
        return self

    def select(self, streams: Sequence[int]) -> None:
        """Nothing is held."""

    batch_repeat_interleave = batch_select_indices = reorder_cache = select

    def get_max_length(self) -> int:
        """None."""
        return -1

    def reset(self) -> None:
        """Nothing is held."""

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def load(self, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Nothing is held.

        Raises:
            InputError: a tensor is given.
        """
        if tensors:
            raise InputError(f"{min(tensors)}: a tensor of a layer that holds none")


def _of(streams: Sequence[int], x: Tensor) -> Tensor:
    """Some streams of a batch; a single one shares memory."""
    return x[streams[0] : streams[0] + 1] if len(streams) == 1 else x[list(streams)]
