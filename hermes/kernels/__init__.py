"""The arithmetic of memory: each operation a plain-torch reference with a Triton kernel beside it."""

from hermes.kernels.compact import compact_layer
from hermes.kernels.dispatch import Kernels
from hermes.kernels.mass import attention_mass
from hermes.kernels.rotate import rotate
from hermes.kernels.score import blended_scores

__all__ = ["Kernels", "attention_mass", "blended_scores", "compact_layer", "rotate"]
