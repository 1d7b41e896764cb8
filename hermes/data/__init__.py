"""Benchmarks of questions about streams."""
