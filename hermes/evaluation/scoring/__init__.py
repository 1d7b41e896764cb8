"""Accuracies, intervals and comparisons of runs."""
