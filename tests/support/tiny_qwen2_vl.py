"""A tiny random Qwen2-VL."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from hermes.backbone import Backbone, BackboneConfig
from hermes.backbones.qwen2_vl import Qwen2VL
from hermes.backbones.tiny import TinyQwen2_5VL, _Tiny


class TinyQwen2VL(_Tiny, Qwen2VL):
    """At most 9 tokens a frame pair, 10 layers."""

    model_types: ClassVar[tuple[str, ...]] = ()
    model_type = "qwen2_vl"
    text = TinyQwen2_5VL.text
    vision: ClassVar[dict[str, Any]] = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64}
    pixels = TinyQwen2_5VL.pixels
    token_ids = TinyQwen2_5VL.token_ids


@cache
def tiny_qwen2_vl(layout: str = "stream") -> Backbone:
    """Shared by all tests of a process: leave it as it is."""
    return TinyQwen2VL.load(BackboneConfig(layout=layout))  # type: ignore[arg-type]
