"""Qwen3.5: Qwen3-VL's frames before a decoder of three gated delta-nets to one full attention."""

from __future__ import annotations

from typing import ClassVar

from .qwen3_vl import Qwen3VL


class Qwen3_5(Qwen3VL):  # noqa: N801
    """Qwen3.5, dense and mixture of experts (``Qwen/Qwen3.5-*``).

    Frames, timestamps and M-RoPE are Qwen3-VL's; no features are fed to later layers. One decoder layer in
    four has full attention, with gated queries of which a quarter of the channels is rotated: a policy
    manages the tokens of those. The others are gated delta-nets, whose states the stream itself makes.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_5", "qwen3_5_moe")
    layer_kinds = "3 recurrent to 1 managed"
