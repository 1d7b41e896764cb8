"""Hermes: streaming-video memory for video language models."""

from hermes.faces import face as _face
from hermes.forwarding import install as _install

_install()
# Imported at first use, so that `import hermes` needs no torch.
__all__, __getattr__, __dir__ = _face(__name__, __file__)
