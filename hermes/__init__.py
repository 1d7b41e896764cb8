"""Hermes: streaming-video memory for video language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module. Imported at first use, so that `hermes --help` needs no torch.
_PUBLIC = {
    "Answer": "hermes.answer",
    "Archive": "hermes.archive",
    "Archiving": "hermes.archive",
    "AttentionMass": "hermes.probe",
    "AttentionProbe": "hermes.probe",
    "AttentionView": "hermes.attention",
    "Backbone": "hermes.backbone",
    "BackboneConfig": "hermes.backbone",
    "Callback": "hermes.callback",
    "Chunk": "hermes.backbone",
    "Frame": "hermes.video",
    "Guidance": "hermes.observe",
    "KVLayer": "hermes.layer",
    "KVMemory": "hermes.memory",
    "LayerContext": "hermes.parts",
    "LayerUpdate": "hermes.layer",
    "MemoryPolicy": "hermes.policy",
    "Merger": "hermes.parts",
    "Mix": "hermes.layer",
    "Observer": "hermes.observe",
    "Provenance": "hermes.provenance",
    "Recall": "hermes.policy",
    "Scorer": "hermes.parts",
    "Selector": "hermes.parts",
    "Store": "hermes.archive",
    "StreamContext": "hermes.policy",
    "StreamSession": "hermes.session",
    "Tier": "hermes.tiers",
    "TieredPolicy": "hermes.tiers",
    "VideoState": "hermes.backbone",
    "load_backbone": "hermes.loading",
    "load_memory": "hermes.storage",
    "open_session": "hermes.run",
    "open_source": "hermes.video",
    "probing": "hermes.probe",
    "setting": "hermes.config",
}

__all__ = sorted([*_PUBLIC, "__version__"])

if TYPE_CHECKING:
    from hermes.answer import Answer as Answer
    from hermes.archive import Archive as Archive
    from hermes.archive import Archiving as Archiving
    from hermes.archive import Store as Store
    from hermes.attention import AttentionView as AttentionView
    from hermes.backbone import Backbone as Backbone
    from hermes.backbone import BackboneConfig as BackboneConfig
    from hermes.backbone import Chunk as Chunk
    from hermes.backbone import VideoState as VideoState
    from hermes.callback import Callback as Callback
    from hermes.config import setting as setting
    from hermes.layer import KVLayer as KVLayer
    from hermes.layer import LayerUpdate as LayerUpdate
    from hermes.layer import Mix as Mix
    from hermes.loading import load_backbone as load_backbone
    from hermes.memory import KVMemory as KVMemory
    from hermes.observe import Guidance as Guidance
    from hermes.observe import Observer as Observer
    from hermes.parts import LayerContext as LayerContext
    from hermes.parts import Merger as Merger
    from hermes.parts import Scorer as Scorer
    from hermes.parts import Selector as Selector
    from hermes.policy import MemoryPolicy as MemoryPolicy
    from hermes.policy import Recall as Recall
    from hermes.policy import StreamContext as StreamContext
    from hermes.probe import AttentionMass as AttentionMass
    from hermes.probe import AttentionProbe as AttentionProbe
    from hermes.probe import probing as probing
    from hermes.provenance import Provenance as Provenance
    from hermes.run import open_session as open_session
    from hermes.session import StreamSession as StreamSession
    from hermes.storage import load_memory as load_memory
    from hermes.tiers import Tier as Tier
    from hermes.tiers import TieredPolicy as TieredPolicy
    from hermes.video import Frame as Frame
    from hermes.video import open_source as open_source


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hermes' has no attribute {name!r}")
