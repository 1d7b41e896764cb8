"""A stream, its memory, and questions at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes.faces import lazy_face

if TYPE_CHECKING:
    from hermes.session.answer import Answer as Answer
    from hermes.session.answer import Stats as Stats
    from hermes.session.config import RunConfig as RunConfig
    from hermes.session.config import StreamConfig as StreamConfig
    from hermes.session.config import run_config as run_config
    from hermes.session.lockstep import BatchedSession as BatchedSession
    from hermes.session.memory_map import HeldFrame as HeldFrame
    from hermes.session.memory_map import check_map_path as check_map_path
    from hermes.session.memory_map import held_frames as held_frames
    from hermes.session.memory_map import memory_figure as memory_figure
    from hermes.session.memory_map import session_map as session_map
    from hermes.session.opening import open_session as open_session
    from hermes.session.opening import session_from as session_from
    from hermes.session.session import Callback as Callback
    from hermes.session.session import StreamSession as StreamSession
    from hermes.session.session import probing as probing
    from hermes.session.stream import Stream as Stream
else:
    __all__, __getattr__ = lazy_face(
        __name__,
        {
            "answer": "Answer Stats",
            "config": "RunConfig StreamConfig run_config",
            "lockstep": "BatchedSession",
            "memory_map": "HeldFrame check_map_path held_frames memory_figure session_map",
            "opening": "open_session session_from",
            "session": "Callback StreamSession probing",
            "stream": "Stream",
        },
    )
