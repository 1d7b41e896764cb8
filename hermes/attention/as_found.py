"""What a call changes on a model besides its attention, put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["Found"]

# transformers' mark on a model whose modules have its hooks: it leaves both for good once it was asked for
# hidden states or attention weights.
_HOOKED = "_output_capturing_hooks_installed"


class Found:
    """A model as it was found, in evaluation mode from here on until it is restored.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    >>> found = Found(model)
    >>> model.training, model[1].training
    (False, False)
    >>> found.restore()
    >>> model.training, model[1].training
    (True, True)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._training: list[nn.Module] = []
        # What the M-RoPE families note of the last text that they have read.
        self._noted: list[tuple[Any, object]] = []
        self._hooks: dict[nn.Module, set[int]] = {}
        # Models, and those of their parts that are models, without transformers' mark.
        self._unhooked: list[nn.Module] = []
        # A large model has over a thousand modules, and a question is to cost a few milliseconds.
        for module in _modules(model):
            own = vars(module)
            if own["training"]:
                self._training.append(module)
                module.training = False
            if own["_forward_hooks"]:
                self._hooks[module] = set(own["_forward_hooks"])
            if "config" in own and _HOOKED not in own:
                self._unhooked.append(module)
            if "rope_deltas" in own:
                self._noted.append((module, own["rope_deltas"]))

    def restore(self) -> None:
        """Put everything back."""
        if marked := [module for module in self._unhooked if _HOOKED in vars(module)]:
            for module in marked:
                del vars(module)[_HOOKED]
            for module in _modules(self._model):
                for number in module._forward_hooks.keys() - self._hooks.get(module, set()):
                    del module._forward_hooks[number]
        for module in self._training:
            module.training = True
        for module, noted in self._noted:
            module.rope_deltas = noted


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """All modules, some four times as fast as ``model.modules()``."""
    seen, waiting = {model}, [model]
    while waiting:
        module = waiting.pop()
        yield module
        for part in module._modules.values():
            if part is not None and part not in seen:
                seen.add(part)
                waiting.append(part)
