"""A benchmark asked from start to end: every video streamed once, every question at its time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from hermes.backbone import Backbone
from hermes.errors import InputError, SettingError
from hermes.evaluation.judging.judge_run import judge_run
from hermes.evaluation.results.journal import Journal
from hermes.evaluation.running.module import EvalData, EvalModule
from hermes.evaluation.running.settings import EvalConfig
from hermes.evaluation.scoring.metrics import metrics
from hermes.evaluation.scoring.summary import Summary, summarise
from hermes.files import writing
from hermes.machine.lightning import interruptible

__all__ = ["evaluate", "is_worker"]

_log = logging.getLogger("hermes.evaluation")


def evaluate(
    config: EvalConfig,
    folder: str | Path,
    *,
    backbone: Backbone | None = None,
    watcher: Callable[[int, int], None] | None = None,
    judging: Callable[[int, int], None] | None = None,
    anyway: bool = False,
) -> Summary:
    """Ask every question of a benchmark, each from the frames before its time alone, and count.

    Rows are written one by one to ``folder/rows.jsonl``; ``folder/manifest.json`` says what they were made
    with. A folder that holds part of this run is gone on with: videos are streamed again up to the questions
    that are missing, and the answers come out as without the interruption. Lightning's Trainer spreads the
    videos over ``config.trainer.devices`` processes; the first one judges open-ended answers when all are
    given, if there is a judge.

    Args:
        config: everything.
        folder: of this run.
        backbone: a loaded one; by default that of ``config``.
        watcher: called with questions answered and questions in all, of this process; first with what an
            earlier run has left.
        judging: called with answers that have a verdict, and answers to judge.
        anyway: go on with a run that was made with other settings, weights or versions; the manifest tells it
            under ``mixed``.

    Returns:
        What the run comes to; ``broken`` tells the videos that could not be read.

    Raises:
        SettingError: a wrong setting, or a folder that holds another run.
        InputError: an annotation file that cannot be read, no video that can, or a judge that cannot be used
            or reached.
    """
    folder = Path(folder)
    if config.judge is not None:
        config.judge.check()
    elif not is_worker() and len(config.data) and any(q.open_ended for q in config.data.clip(0).questions):
        _log.warning("no judge is given: open-ended answers are kept, and not scored until one judges them")
    module = EvalModule(config, folder, backbone=backbone, watcher=watcher, anyway=anyway)
    with interruptible(), writing(folder, "The answers so far are kept."):
        trainer = _trainer(config, folder)
        try:
            trainer.test(module, EvalData(config.data), verbose=False)
        finally:
            # The Trainer leaves this out where a test fails.
            module.teardown("test")
    journal = Journal(folder)
    rows, broken = journal.rows.values(), [journal.broken[clip] for clip in sorted(journal.broken)]
    if not rows:
        why = f": {broken[0].video}: {broken[0].error}" if broken else ""
        raise InputError(
            f"no question could be asked{why or ': look at the settings of the benchmark (data.*)'}"
        )
    if config.judge is None or is_worker():
        return summarise(rows, broken)
    # Only now, as other processes would not wait for a slow judge.
    found = judge_run(folder, config.judge, watcher=judging, anyway=anyway)
    with writing(folder, "The verdicts so far are kept."):
        for logger in trainer.loggers:
            logger.log_metrics(metrics(list(Journal(folder).rows.values())))
            logger.finalize("success")
    return found


def is_worker() -> bool:
    """Whether Lightning started this process beside a first one, which alone speaks to the user."""
    return int(rank_zero_only.rank or 0) != 0


def _trainer(config: EvalConfig, folder: Path) -> Trainer:
    given = config.trainer
    try:
        return Trainer(
            accelerator=given.accelerator,
            devices=given.devices,
            num_nodes=given.nodes,
            strategy=given.strategy,
            precision=given.precision,
            logger=_logger(given.logger, folder),
            # What a session caches on a model outlives the test.
            inference_mode=False,
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (ValueError, RuntimeError, ImportError) as error:
        # Lightning names its own arguments, which are these settings.
        raise SettingError("trainer", _told(given), hint=" ".join(str(error).split())) from error


def _told(given: Any) -> str:
    return ", ".join(f"{name}={value}" for name, value in vars(given).items())


def _logger(name: str, folder: Path) -> Any:
    from lightning.pytorch import loggers

    if name == "csv":
        return loggers.CSVLogger(folder, name="metrics", version="")
    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="tensorboard", version="")
    if name == "wandb":
        return loggers.WandbLogger(save_dir=folder, name=folder.name)
    if name == "mlflow":
        return loggers.MLFlowLogger(run_name=folder.name, save_dir=str(folder / "mlruns"))
    return False
