"""Hermes: streaming-video memory for video language models."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hermes.forwarding import install as _install
from hermes.version import __version__ as __version__

_install()

# Public name -> module. Imported at first use, so that `hermes --help` needs no torch.
_PUBLIC = {
    "Answer": "hermes.session.answer",
    "Archive": "hermes.policy",
    "Archiving": "hermes.policy",
    "AttentionMass": "hermes.attention",
    "AttentionProbe": "hermes.attention",
    "AttentionView": "hermes.attention",
    "Backbone": "hermes.backbone",
    "BackboneConfig": "hermes.backbone",
    "Callback": "hermes.session.session",
    "Chunk": "hermes.tokens",
    "Frame": "hermes.video",
    "Guidance": "hermes.attention",
    "KVLayer": "hermes.memory",
    "KVMemory": "hermes.memory",
    "LayerContext": "hermes.parts",
    "LayerUpdate": "hermes.memory",
    "MemoryPolicy": "hermes.policy",
    "Merger": "hermes.parts",
    "Mix": "hermes.memory",
    "Observer": "hermes.attention",
    "Provenance": "hermes.tokens",
    "Recall": "hermes.policy",
    "Scorer": "hermes.parts",
    "Selector": "hermes.parts",
    "Store": "hermes.policy",
    "StreamContext": "hermes.policy",
    "StreamSession": "hermes.session.session",
    "Tier": "hermes.policy",
    "TieredPolicy": "hermes.policy",
    "VideoState": "hermes.tokens",
    "load_backbone": "hermes.backbone",
    "load_memory": "hermes.memory",
    "open_session": "hermes.session.opening",
    "open_source": "hermes.video",
    "probing": "hermes.session.session",
    "setting": "hermes.config",
}

__all__ = sorted([*_PUBLIC, "__version__"])

if TYPE_CHECKING:
    from hermes.attention import AttentionMass as AttentionMass
    from hermes.attention import AttentionProbe as AttentionProbe
    from hermes.attention import AttentionView as AttentionView
    from hermes.attention import Guidance as Guidance
    from hermes.attention import Observer as Observer
    from hermes.backbone import Backbone as Backbone
    from hermes.backbone import BackboneConfig as BackboneConfig
    from hermes.backbone import load_backbone as load_backbone
    from hermes.config import setting as setting
    from hermes.memory import KVLayer as KVLayer
    from hermes.memory import KVMemory as KVMemory
    from hermes.memory import LayerUpdate as LayerUpdate
    from hermes.memory import Mix as Mix
    from hermes.memory import load_memory as load_memory
    from hermes.parts import LayerContext as LayerContext
    from hermes.parts import Merger as Merger
    from hermes.parts import Scorer as Scorer
    from hermes.parts import Selector as Selector
    from hermes.policy import Archive as Archive
    from hermes.policy import Archiving as Archiving
    from hermes.policy import MemoryPolicy as MemoryPolicy
    from hermes.policy import Recall as Recall
    from hermes.policy import Store as Store
    from hermes.policy import StreamContext as StreamContext
    from hermes.policy import Tier as Tier
    from hermes.policy import TieredPolicy as TieredPolicy
    from hermes.session.answer import Answer as Answer
    from hermes.session.opening import open_session as open_session
    from hermes.session.session import Callback as Callback
    from hermes.session.session import StreamSession as StreamSession
    from hermes.session.session import probing as probing
    from hermes.tokens import Chunk as Chunk
    from hermes.tokens import Provenance as Provenance
    from hermes.tokens import VideoState as VideoState
    from hermes.video import Frame as Frame
    from hermes.video import open_source as open_source


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hermes' has no attribute {name!r}")
