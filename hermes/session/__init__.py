"""A stream, its memory, and questions at any time."""

from hermes.faces import face

__all__, __getattr__, __dir__ = face(__name__, __file__)
