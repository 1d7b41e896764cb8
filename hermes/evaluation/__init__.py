"""Benchmarks asked and counted: one row a question, resumable, with intervals; runs compared and reported.

Source: this project.
"""

from hermes.evaluation.judging.judge import Judge, RefusedError, Verdict
from hermes.evaluation.judging.judge_run import judge_run
from hermes.evaluation.results.journal import Journal
from hermes.evaluation.results.rows import AnswerRow
from hermes.evaluation.running.module import EvalData, EvalModule
from hermes.evaluation.running.run import evaluate, is_worker
from hermes.evaluation.running.settings import EvalConfig, TrainerConfig, default_folder, eval_config
from hermes.evaluation.scoring.compare import Comparison, Difference, compare_runs
from hermes.evaluation.scoring.statistics import wilson
from hermes.evaluation.scoring.summary import Score, Summary, age_bin, summarise

__all__ = [
    "AnswerRow",
    "Comparison",
    "Difference",
    "EvalConfig",
    "EvalData",
    "EvalModule",
    "Journal",
    "Judge",
    "RefusedError",
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
