"""Answers judged by a model, or by their words."""
