"""Benchmarks asked and counted: one row a question, resumable, with intervals; runs compared and reported."""

from hermes.faces import face

__all__, __getattr__, __dir__ = face(__name__, __file__)
