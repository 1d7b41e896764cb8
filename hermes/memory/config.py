"""The settings of the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hermes.config import Settings, setting

ExecutionMode = Literal["eager", "static", "compile"]


@dataclass
class MemoryConfig(Settings):
    """How the memory stores keys and its steps are run (settings ``memory.*``)."""

    keep_written: bool = setting(
        False,
        help="hold a second copy of the keys as first written: no rounding drift under eager re-indexing",
    )
    clock: Literal["per_layer", "first_layer"] = setting(
        "per_layer",
        help="first_layer rotates every layer at the first layer's clock (the release, for Qwen2.5-VL)",
    )
    kernels: Literal["auto", "torch", "triton"] = setting(
        "auto", help="auto: Triton kernels on a CUDA device, plain PyTorch elsewhere"
    )
    execution: ExecutionMode = setting(
        "eager",
        help="eager: transformers' own forward and generate; static: answers decoded in place; compile: "
        "chunks, compressions and answers at fixed shapes besides, compiled (CUDA graphs on a GPU)",
    )
