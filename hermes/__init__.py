"""Hermes: streaming-video memory for video language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module. Imported at first use, so that `hermes --help` needs no torch.
_PUBLIC = {
    "AttentionMass": "hermes.probe",
    "AttentionProbe": "hermes.probe",
    "AttentionView": "hermes.attention",
    "Answer": "hermes.answer",
    "Backbone": "hermes.backbone",
    "Callback": "hermes.session",
    "KVMemory": "hermes.memory",
    "LayerUpdate": "hermes.memory",
    "MemoryPolicy": "hermes.policy",
    "Mix": "hermes.memory",
    "StreamSession": "hermes.session",
    "Tier": "hermes.tiers",
    "TieredPolicy": "hermes.tiers",
    "open_session": "hermes.run",
    "open_source": "hermes.video",
    "setting": "hermes.config",
}

__all__ = sorted([*_PUBLIC, "__version__"])

if TYPE_CHECKING:
    from hermes.answer import Answer as Answer
    from hermes.attention import AttentionView as AttentionView
    from hermes.backbone import Backbone as Backbone
    from hermes.config import setting as setting
    from hermes.memory import KVMemory as KVMemory
    from hermes.memory import LayerUpdate as LayerUpdate
    from hermes.memory import Mix as Mix
    from hermes.policy import MemoryPolicy as MemoryPolicy
    from hermes.probe import AttentionMass as AttentionMass
    from hermes.probe import AttentionProbe as AttentionProbe
    from hermes.run import open_session as open_session
    from hermes.session import Callback as Callback
    from hermes.session import StreamSession as StreamSession
    from hermes.tiers import Tier as Tier
    from hermes.tiers import TieredPolicy as TieredPolicy
    from hermes.video import open_source as open_source


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hermes' has no attribute {name!r}")
