"""The arithmetic of memory: each operation a plain-torch reference with a Triton kernel beside it."""

from hermes.kernels.compact import MixPlan, compact_layer
from hermes.kernels.dispatch import Kernels
from hermes.kernels.mass import attention_mass, attention_received
from hermes.kernels.rotate import Rotation, rotate
from hermes.kernels.score import blended_scores

__all__ = [
    "Kernels",
    "MixPlan",
    "Rotation",
    "attention_mass",
    "attention_received",
    "blended_scores",
    "compact_layer",
    "rotate",
]
