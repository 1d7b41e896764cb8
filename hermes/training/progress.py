"""A progress bar on stderr while a model trains."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["StepBar"]


class StepBar(Callback):  # type: ignore[misc]
    """Steps done of all steps, with the latest loss.

    Lightning's own bars count batches of an epoch, and a stream of batches has no end.
    """

    def __init__(self, name: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task(name)
        self.name = name

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Shows the bar."""
        self.bar.update(self.task, completed=trainer.global_step, total=trainer.max_steps)
        self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Counts the step."""
        loss = float(outputs["loss"] if isinstance(outputs, dict) else outputs)
        self.bar.update(self.task, completed=trainer.global_step, description=f"{self.name}, loss {loss:.3f}")

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Hides the bar."""
        self.bar.stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, error: BaseException) -> None:
        """Hides the bar."""
        self.bar.stop()
