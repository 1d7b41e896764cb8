"""What a call changes on a model besides its attention, put back afterwards."""

from __future__ import annotations

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
    >>> _ = model[0].register_forward_hook(print)
    >>> found.restore()
    >>> model.training, model[1].training, len(model[0]._forward_hooks)
    (True, True, 0)
    """

    def __init__(self, model: nn.Module) -> None:
        self._hooks: list[tuple[nn.Module, set[int], bool]] = []
        self._training: list[nn.Module] = []
        # What the M-RoPE families note of the last text that they have read.
        self._noted: list[tuple[Any, object]] = []
        for module in model.modules():
            self._hooks.append((module, set(module._forward_hooks), _HOOKED in vars(module)))
            if module.training:
                self._training.append(module)
                module.training = False
            if "rope_deltas" in vars(module):
                self._noted.append((module, vars(module)["rope_deltas"]))

    def restore(self) -> None:
        """Put everything back."""
        for module, hooks, hooked in self._hooks:
            for number in module._forward_hooks.keys() - hooks:
                del module._forward_hooks[number]
            if not hooked:
                vars(module).pop(_HOOKED, None)
        for module in self._training:
            module.training = True
        for module, noted in self._noted:
            module.rope_deltas = noted
