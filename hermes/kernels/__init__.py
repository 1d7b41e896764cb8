"""The arithmetic of memory: rotation, attention mass and compaction, each a plain-torch reference."""

from hermes.kernels.compact import compact_layer
from hermes.kernels.mass import attention_mass
from hermes.kernels.rotate import rotate

__all__ = ["attention_mass", "compact_layer", "rotate"]
