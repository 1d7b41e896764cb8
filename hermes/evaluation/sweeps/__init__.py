"""Sweeps: many evaluations, resumable, several at a time."""
