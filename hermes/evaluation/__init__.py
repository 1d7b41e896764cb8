"""Benchmarks asked and counted: one row a question, resumable, with intervals.

Source: this project.
"""

from hermes.evaluation.module import EvalData, EvalModule
from hermes.evaluation.rows import Journal, Row
from hermes.evaluation.run import evaluate, is_worker
from hermes.evaluation.settings import EvalConfig, TrainerConfig, default_folder, eval_config
from hermes.evaluation.statistics import wilson
from hermes.evaluation.summary import Score, Summary, age_bin, summarise

__all__ = [
    "EvalConfig",
    "EvalData",
    "EvalModule",
    "Journal",
    "Row",
    "Score",
    "Summary",
    "TrainerConfig",
    "age_bin",
    "default_folder",
    "eval_config",
    "evaluate",
    "is_worker",
    "summarise",
    "wilson",
]
