"""Benchmarks asked and counted: one row a question, resumable, with intervals; runs compared and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes.faces import lazy_face

if TYPE_CHECKING:
    from hermes.evaluation.judging.judge import Judge as Judge
    from hermes.evaluation.judging.judge import RefusedError as RefusedError
    from hermes.evaluation.judging.judge import Verdict as Verdict
    from hermes.evaluation.judging.judge_run import judge_run as judge_run
    from hermes.evaluation.reports.run_page import write_report as write_report
    from hermes.evaluation.reports.sweep_page import check_extras as check_extras
    from hermes.evaluation.reports.sweep_page import write_sweep as write_sweep
    from hermes.evaluation.results.journal import Journal as Journal
    from hermes.evaluation.results.rows import AnswerRow as AnswerRow
    from hermes.evaluation.results.rows import Row as Row
    from hermes.evaluation.running.module import EvalData as EvalData
    from hermes.evaluation.running.module import EvalModule as EvalModule
    from hermes.evaluation.running.run import evaluate as evaluate
    from hermes.evaluation.running.run import is_worker as is_worker
    from hermes.evaluation.running.settings import EvalConfig as EvalConfig
    from hermes.evaluation.running.settings import TrainerConfig as TrainerConfig
    from hermes.evaluation.running.settings import default_folder as default_folder
    from hermes.evaluation.running.settings import eval_config as eval_config
    from hermes.evaluation.scoring.compare import Comparison as Comparison
    from hermes.evaluation.scoring.compare import Difference as Difference
    from hermes.evaluation.scoring.compare import compare_runs as compare_runs
    from hermes.evaluation.scoring.statistics import wilson as wilson
    from hermes.evaluation.scoring.summary import Score as Score
    from hermes.evaluation.scoring.summary import Summary as Summary
    from hermes.evaluation.scoring.summary import age_bin as age_bin
    from hermes.evaluation.scoring.summary import summarise as summarise
    from hermes.evaluation.sweeps.cells import SweepCell as SweepCell
    from hermes.evaluation.sweeps.cells import cells_of as cells_of
    from hermes.evaluation.sweeps.running import Outcome as Outcome
    from hermes.evaluation.sweeps.running import in_processes as in_processes
    from hermes.evaluation.sweeps.running import run_cells as run_cells
else:
    __all__, __getattr__ = lazy_face(
        __name__,
        {
            "results.journal": "Journal",
            "results.rows": "AnswerRow Row",
            "scoring.compare": "Comparison Difference compare_runs",
            "scoring.statistics": "wilson",
            "scoring.summary": "Score Summary age_bin summarise",
            "judging.judge": "Judge RefusedError Verdict",
            "judging.judge_run": "judge_run",
            "running.module": "EvalData EvalModule",
            "running.run": "evaluate is_worker",
            "running.settings": "EvalConfig TrainerConfig default_folder eval_config",
            "sweeps.cells": "SweepCell cells_of",
            "sweeps.running": "Outcome in_processes run_cells",
            "reports.run_page": "write_report",
            "reports.sweep_page": "check_extras write_sweep",
        },
    )
