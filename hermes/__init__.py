"""Hermes: streaming-video memory for video language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes.faces import lazy_face
from hermes.forwarding import install as _install
from hermes.version import __version__ as __version__

_install()

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
else:
    # Imported at first use, so that `import hermes` needs no torch.
    __all__, __getattr__ = lazy_face(
        "hermes",
        {
            "attention": "AttentionMass AttentionProbe AttentionView Guidance Observer",
            "backbone": "Backbone BackboneConfig load_backbone",
            "config": "setting",
            "memory": "KVLayer KVMemory LayerUpdate Mix load_memory",
            "parts": "LayerContext Merger Scorer Selector",
            "policy": "Archive Archiving MemoryPolicy Recall Store StreamContext Tier TieredPolicy",
            "session.answer": "Answer",
            "session.opening": "open_session",
            "session.session": "Callback StreamSession probing",
            "tokens": "Chunk Provenance VideoState",
            "video": "Frame open_source",
        },
    )
    __all__ += ["__version__"]
