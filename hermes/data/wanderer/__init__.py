"""Wanderer: a synthetic stream benchmark of named places and the objects seen there, without end."""

from hermes.data.wanderer.benchmark import Walk, Wanderer, write_wanderer
from hermes.data.wanderer.questions import KINDS, Question
from hermes.data.wanderer.world import Stream, WorldConfig, sample_stream

__all__ = [
    "KINDS",
    "Question",
    "Stream",
    "Walk",
    "Wanderer",
    "WorldConfig",
    "sample_stream",
    "write_wanderer",
]
