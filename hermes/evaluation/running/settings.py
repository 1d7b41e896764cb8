"""Settings of an evaluation, and the folder it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hermes.config import Settings, compose, config_hash, setting, to_dict
from hermes.data.benchmark import Benchmark
from hermes.errors import SettingError
from hermes.evaluation.judging.judge import Judge
from hermes.registry import registry
from hermes.session.config import DEFAULTS, FALLBACKS, RunConfig
from hermes.video import Link

__all__ = [
    "BenchmarkConfig",
    "EvalConfig",
    "TrainerConfig",
    "answer_settings",
    "default_folder",
    "eval_config",
    "settings_hash",
]

Logger = Literal["csv", "tensorboard", "wandb", "mlflow", "none"]


@dataclass
class TrainerConfig(Settings):
    """How Lightning runs an evaluation (settings ``trainer.*``).

    Answers do not depend on them: every video has its own random numbers, whichever process streams it.
    """

    accelerator: str = setting("auto", help="cpu, gpu, ... as Lightning names it")
    devices: int = setting(1, help="processes on this machine; each streams its share of the videos", ge=1)
    nodes: int = setting(1, help="machines", ge=1)
    strategy: str = setting("auto", help="as Lightning names it")
    precision: str = setting("32-true", help="as Lightning names it; the weights' own is backbone.dtype")
    logger: Logger = setting("csv", help="where metrics go besides the rows")


@dataclass(kw_only=True)
class BenchmarkConfig(RunConfig):
    """The settings of a run on a benchmark."""

    data: Benchmark = setting(help="the benchmark")


@dataclass(kw_only=True)
class EvalConfig(BenchmarkConfig):
    """The settings of ``hermes eval``: those of a run, a benchmark, and a folder.

    Raises:
        SettingError: delays that are not above 0, or given twice.
    """

    delays: list[float] = setting(
        [], help="ask again so many seconds later, where the answer is known to be still right", unit="s"
    )
    link: Link = setting(Link(), help="how frames come from the camera")
    trainer: TrainerConfig = setting(TrainerConfig(), help="processes, precision and loggers")
    judge: Judge | None = setting(None, help="who judges open-ended answers, once all are given")
    output: Path | None = setting(
        None, help="folder of rows and manifest; default: runs/eval/ and a name made of the settings"
    )

    def __post_init__(self) -> None:
        if any(not delay > 0 for delay in self.delays) or len(set(self.delays)) < len(self.delays):
            raise SettingError("delays", self.delays, "seconds above 0, each once")


def eval_config(overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> EvalConfig:
    """The settings of an evaluation from ``key=value`` overrides on the defaults.

    Raises:
        SettingError: an unknown setting, a wrong type or value, an unknown policy, backbone or benchmark.

    >>> eval_config(["policy=fifo", "data.streams=3"]).data.streams
    3
    """
    defaults = {**DEFAULTS, "data": "wanderer"}
    return compose(defaults, overrides, EvalConfig, config_dirs=config_dirs, fallbacks=FALLBACKS)


def default_folder(config: EvalConfig) -> Path:
    """Where a run goes that was given no folder: the same settings, the same folder."""
    data = registry("data").name_of(type(config.data)).rpartition(".")[2]
    policy = registry("policy").name_of(type(config.policy)).rpartition(".")[2]
    return Path("runs/eval") / f"{data}-{policy}-{config.policy.budget}-{settings_hash(config)[:8]}"


def settings_hash(config: BenchmarkConfig) -> str:
    """What makes two runs the same: all but where they are written, how they are spread, who judges them."""
    apart: dict[str, Any] = {"output": None, "trainer": TrainerConfig()}
    known = {name: value for name, value in apart.items() if hasattr(config, name)}
    return config_hash(answer_settings(replace(config, **known), hashing=True))


def answer_settings(config: BenchmarkConfig, *, hashing: bool = False) -> dict[str, Any]:
    """Every setting but the judge, which has no part in the answers, as :func:`hermes.config.to_dict`."""
    return {name: value for name, value in to_dict(config, hashing=hashing).items() if name != "judge"}
