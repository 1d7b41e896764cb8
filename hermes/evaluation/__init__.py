"""Benchmarks asked and counted: one row a question, resumable, with intervals; runs compared and reported.

Source: this project.
"""

from hermes.evaluation.compare import Comparison, Difference, compare_runs
from hermes.evaluation.journal import Journal
from hermes.evaluation.judge import Judge, RefusedError, Verdict
from hermes.evaluation.judging import judge_run
from hermes.evaluation.module import EvalData, EvalModule
from hermes.evaluation.rows import Row
from hermes.evaluation.run import evaluate, is_worker
from hermes.evaluation.settings import EvalConfig, TrainerConfig, default_folder, eval_config
from hermes.evaluation.statistics import wilson
from hermes.evaluation.summary import Score, Summary, age_bin, summarise

__all__ = [
    "Comparison",
    "Difference",
    "EvalConfig",
    "EvalData",
    "EvalModule",
    "Journal",
    "Judge",
    "RefusedError",
    "Row",
    "Score",
    "Summary",
    "TrainerConfig",
    "Verdict",
    "age_bin",
    "compare_runs",
    "default_folder",
    "eval_config",
    "evaluate",
    "is_worker",
    "judge_run",
    "summarise",
    "wilson",
]
