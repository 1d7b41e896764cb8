"""Benchmarks asked and counted: one row a question, resumable, with intervals.

Source: this project.
"""

from hermes.evaluation.rows import Journal, Row
from hermes.evaluation.run import EvalConfig, default_folder, eval_config, evaluate
from hermes.evaluation.statistics import wilson
from hermes.evaluation.summary import Score, Summary, age_bin, summarise

__all__ = [
    "EvalConfig",
    "Journal",
    "Row",
    "Score",
    "Summary",
    "age_bin",
    "default_folder",
    "eval_config",
    "evaluate",
    "summarise",
    "wilson",
]
