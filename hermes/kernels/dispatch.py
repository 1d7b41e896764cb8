"""Which implementation of a kernel runs: chosen per call, with a stated reason and an off switch."""

from __future__ import annotations

import importlib
import logging
import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from hermes.errors import SettingError

Provider = Literal["auto", "torch", "triton"]
_log = logging.getLogger(__name__)
_MODULES = {
    "rotate": "hermes.kernels.rotate",
    "attention_mass": "hermes.kernels.mass",
    "compact_layer": "hermes.kernels.compact",
    "blended_scores": "hermes.kernels.score",
}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Below this many elements a launch costs more than the work, whoever launches it.
_SMALL = 4096


@dataclass(frozen=True)
class Choice:
    """Who runs an operation, ``torch`` or ``triton``, and why."""

    provider: str
    reason: str


class Kernels:
    """The arithmetic of memory, each operation by the reference or by its Triton kernel.

    Triton is imported when it is first chosen.

    Args:
        wanted: ``torch`` and ``triton`` force one; ``auto`` takes Triton for tensors on a CUDA device that it
            serves and that are large enough.

    Attributes:
        chosen: the last choice made for each operation.

    Raises:
        SettingError: ``triton`` where it is not installed, or without a GPU and without its interpreter.

    >>> kernels = Kernels("auto")
    >>> kernels.choose("rotate", torch.zeros(1, 2, 64, 64)).reason
    'the tensor is on the cpu'
    """

    def __init__(self, wanted: Provider = "auto") -> None:
        if wanted == "triton":
            missing = _missing()
            if missing:
                raise SettingError("memory.kernels", wanted, "auto, torch", missing)
        self.wanted = wanted
        self.chosen: dict[str, Choice] = {}

    def choose(self, operation: str, x: Tensor, *, width: int | None = None) -> Choice:
        """Who runs ``operation`` on tensors like ``x``.

        Args:
            operation: the reference's name.
            x: the largest operand.
            width: channels of a head, where there are heads.
        """
        choice = self._choice(x, x.shape[-1] if width is None else width)
        if self.chosen.get(operation) != choice:
            self.chosen[operation] = choice
            _log.debug("%s runs in %s: %s", operation, choice.provider, choice.reason)
        return choice

    def _choice(self, x: Tensor, width: int) -> Choice:
        if self.wanted == "torch":
            return Choice("torch", "memory.kernels=torch")
        if x.dtype not in _DTYPES:
            return Choice("torch", f"no kernel for {str(x.dtype).removeprefix('torch.')}")
        if width % 2 or width > 256:
            return Choice("torch", f"no kernel for heads of {width} channels")
        if self.wanted == "triton":
            return Choice("triton", "memory.kernels=triton")
        if not x.is_cuda:
            return Choice("torch", f"the tensor is on the {x.device.type}")
        if not _installed():
            return Choice("torch", "triton is not installed")
        if x.numel() < _SMALL:
            return Choice("torch", f"fewer than {_SMALL} elements")
        return Choice("triton", "on a CUDA device")

    def _run(self, operation: str, choice: Choice, *args: Any, **kwargs: Any) -> Any:
        suffix = "_triton" if choice.provider == "triton" else ""
        run = getattr(importlib.import_module(_MODULES[operation] + suffix), operation)
        if not suffix:
            return run(*args, **kwargs)
        # A launch goes to the current device, which is not the tensor's in a model spread over several.
        with torch.cuda.device_of(args[0]):
            return run(*args, **kwargs)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """See :func:`hermes.kernels.rotate`."""
        out: Tensor = self._run("rotate", self.choose("rotate", x), x, cos, sin)
        return out

    def attention_mass(self, query: Tensor, memory: Tensor, own: Tensor | None, **options: Any) -> Tensor:
        """See :func:`hermes.kernels.attention_mass`."""
        choice = self.choose("attention_mass", memory)
        out: Tensor = self._run("attention_mass", choice, query, memory, own, **options)
        return out

    def compact_layer(
        self, keys: Tensor, values: Tensor, *args: Any, source: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :func:`hermes.kernels.compact_layer`."""
        choice = self.choose("compact_layer", keys)
        out: tuple[Tensor, Tensor] = self._run("compact_layer", choice, keys, values, *args, source=source)
        return out

    def blended_scores(self, attention: Tensor, *args: Any, **options: Any) -> Tensor:
        """See :func:`hermes.kernels.blended_scores`."""
        choice = self.choose("blended_scores", attention, width=0)
        if options.get("recursive") and options.get("partner") is not None:
            choice = Choice("torch", "recursive smoothing by identity has no kernel")
        out: Tensor = self._run("blended_scores", choice, attention, *args, **options)
        return out


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def _missing() -> str:
    """Why Triton cannot run here; empty where it can."""
    if not _installed():
        return "Triton is not installed: pip install triton (Linux)."
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        return "There is no CUDA device here (TRITON_INTERPRET=1 runs the kernels slowly on the CPU)."
    return ""
