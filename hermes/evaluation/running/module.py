"""Evaluation under Lightning: one video a test step, videos spread over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from lightning import LightningDataModule, LightningModule
from torch.utils.data import DataLoader

from hermes.backbone import Backbone, load_backbone
from hermes.data.benchmark import Benchmark
from hermes.evaluation.results.journal import Journal, gather
from hermes.evaluation.results.run_folder import claim
from hermes.evaluation.running.asking import ask_clip, askings_of
from hermes.evaluation.running.manifest import manifest
from hermes.evaluation.running.settings import EvalConfig
from hermes.evaluation.scoring.metrics import metrics
from hermes.session.opening import session_from
from hermes.session.session import StreamSession

__all__ = ["EvalData", "EvalModule"]


class EvalData(LightningDataModule):  # type: ignore[misc]
    """The videos of a benchmark by their numbers, each in one process only.

    A sampler that pads would ask some questions twice: every process takes each n-th video instead.
    """

    def __init__(self, benchmark: Benchmark) -> None:
        super().__init__()
        self.benchmark = benchmark

    def test_dataloader(self) -> DataLoader[int]:
        """Numbers of this process's videos."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        mine = list(range(rank, len(self.benchmark), world))
        return DataLoader(mine, batch_size=None)  # type: ignore[arg-type]


class EvalModule(LightningModule):  # type: ignore[misc]
    """Asks one video's questions a step; the metrics are logged at the end.

    Args:
        config: everything.
        folder: of the run; each process writes its own rows there.
        backbone: a loaded one; by default that of ``config``, on the process's own device.
        watcher: called with questions answered and questions in all, of this process.
        anyway: go on with a run that was made with something else.
    """

    def __init__(
        self,
        config: EvalConfig,
        folder: Path,
        *,
        backbone: Backbone | None = None,
        watcher: Callable[[int, int], None] | None = None,
        anyway: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.folder = folder
        self.backbone = backbone
        self.watcher = watcher
        self.anyway = anyway
        self._session: StreamSession | None = None

    def setup(self, stage: str) -> None:
        """Load the model and see that the folder is of this run."""
        backbone = self.backbone
        if backbone is None:
            settings = self.config.backbone
            if settings.device == "auto" and self.trainer.world_size > 1:
                settings = replace(settings, device=str(self.trainer.strategy.root_device))
            backbone = load_backbone(settings)
        self._session = session_from(self.config, backbone)
        self._session.__enter__()
        about = manifest(self.config, self._session)
        if self.trainer.is_global_zero:
            claim(self.folder, about, anyway=self.anyway, count=lambda: len(Journal(self.folder).rows))
        self.trainer.strategy.barrier()
        self.journal = Journal(self.folder, self.trainer.global_rank)
        self._progress = _Progress(self.watcher)
        if self.watcher is not None:
            mine = range(self.trainer.global_rank, len(self.config.data), self.trainer.world_size)
            self._progress.begin(self.config, mine, self.journal)

    @property
    def session(self) -> StreamSession:
        """The session that answers, while a test runs."""
        if self._session is None:
            raise RuntimeError("the module has no session before setup")
        return self._session

    def test_step(self, index: int, step: int) -> None:
        """Stream video number ``index`` and ask."""
        ask_clip(self.session, self.config, int(index), self.journal, self._progress.tick)

    def on_test_end(self) -> None:
        """Gather the rows of all processes in one file, and log what they come to.

        Metrics are of the whole file, so that they do not depend on how it was made.
        """
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            rows = gather(self.folder)
            for logger in self.trainer.loggers:
                logger.log_metrics(metrics(rows))
        self.trainer.strategy.barrier()

    def teardown(self, stage: str) -> None:
        """Leave the model as it was found, also after an exception."""
        if self._session is not None:
            self._session.close()
            self._session = None


class _Progress:
    """Counts questions for a watcher, which hears first how many are answered already."""

    def __init__(self, watcher: Callable[[int, int], None] | None) -> None:
        self._watcher = watcher
        self._done = self._total = 0

    def begin(self, config: EvalConfig, clips: Iterable[int], journal: Journal) -> None:
        for index in clips:
            asked = askings_of(config, index)
            self._total += len(asked)
            self._done += sum((index, one.number, one.delay) in journal.rows for one in asked)
        self._tell()

    def tick(self) -> None:
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        if self._watcher is not None:
            self._watcher(self._done, self._total)
