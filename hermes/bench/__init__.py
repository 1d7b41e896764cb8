"""Measurements: time, memory and bytes of a stream."""
