"""Rotation stays in float32, whatever the weights are: rounded frequencies are wrong far into a stream."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hermes.errors import UnsupportedModelError

__all__ = ["cast_weights", "restore_rotation"]

logger = logging.getLogger(__name__)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast a model's weights in place, and leave the frequencies of its rotary embeddings as they are.

    ``model.to(dtype)`` casts them too, as they are buffers, though ``from_pretrained(dtype=...)`` does not.

    >>> rotary = nn.Linear(2, 2)
    >>> rotary.register_buffer("inv_freq", torch.tensor([1.0, 0.1]))
    >>> cast_weights(rotary, torch.bfloat16)
    >>> rotary.weight.dtype, rotary.inv_freq.dtype
    (torch.bfloat16, torch.float32)
    """
    held = list(_frequencies(model))
    model.to(dtype)
    for module, name, before in held:
        setattr(module, name, before)


@torch.no_grad()
def restore_rotation(model: nn.Module) -> None:
    """Compute rotation frequencies anew, in float32, where a cast has rounded them: with a warning.

    In bfloat16 a frequency is off by up to one part in 512: by a whole turn after a few thousand positions.

    Raises:
        UnsupportedModelError: they are rounded, and cannot be computed from the model's settings.
    """
    rounded = [
        (module, name, given) for module, name, given in _frequencies(model) if given.dtype.itemsize < 4
    ]
    for module, name, given in rounded:
        fresh = getattr(_again(module), name, None)
        # What was cast must be what its settings say.
        if fresh is None or not torch.equal(fresh.to(given), given):
            raise UnsupportedModelError(
                f"the rotation frequencies of {type(module).__name__} ({name}) have been cast to "
                f"{str(given.dtype).removeprefix('torch.')}, which rounds them, and its settings do not give "
                "them back: load the model with from_pretrained(..., dtype=...) instead of model.to(dtype)"
            )
        setattr(module, name, fresh.to(given.device, torch.float32))
    if rounded:
        module, name, given = rounded[0]
        logger.warning(
            "%d rotation frequencies of the model (such as %s of %s) had been cast to %s, as by "
            "model.to(dtype), and are float32 again: rounded, they are wrong at large positions",
            len(rounded),
            name,
            type(module).__name__,
            str(given.dtype).removeprefix("torch."),
        )


def _frequencies(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Every buffer of frequencies: the module that holds it, its name there, and itself."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name.endswith("inv_freq"):
                yield module, name, buffer


def _again(module: Any) -> nn.Module | None:
    """A rotary embedding like this one, made anew."""
    try:
        given = (module.config,) if hasattr(module, "config") else (module.dim, module.theta)
        made: nn.Module = type(module)(*given)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return made
