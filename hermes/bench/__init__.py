"""Measurements: time, memory and bytes of a stream."""

from hermes.faces import face

__all__, __getattr__, __dir__ = face(__name__, __file__)
