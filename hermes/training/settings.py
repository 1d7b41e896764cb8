"""Settings of a training: the model, its vision stage, and the decoder's stages in their order."""

from __future__ import annotations

from dataclasses import dataclass

from hermes.config import Settings, setting
from hermes.errors import SettingError
from hermes.training.model import ModelConfig
from hermes.training.packing import Mixture
from hermes.training.vision import VisionConfig

__all__ = ["Schedule", "StageConfig", "TrainConfig"]

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")


@dataclass
class StageConfig(Settings):
    """One stage of the curriculum (settings ``stages.NAME.*``).

    Raises:
        SettingError: a wrong setting.
    """

    steps: int = setting(1000, help="optimiser steps", ge=0)
    rows: int = setting(16, help="streams a step", ge=1)
    slots: int = setting(4, help="slots of questions a stream", ge=1)
    muon_lr: list[float] = setting([0.012, 0.012], help="first and last learning rate of the matrices")
    adam_lr: list[float] = setting([2e-3, 2e-3], help="first and last learning rate of the rest")
    mixture: Mixture = setting(Mixture(), help="what it is trained on")

    def __post_init__(self) -> None:
        for name in ("muon_lr", "adam_lr"):
            if len(getattr(self, name)) != 2:
                raise SettingError(name, getattr(self, name), "[first, last]")


@dataclass
class TrainConfig(Settings):
    """Settings of ``hermes train``.

    Raises:
        SettingError: a wrong setting.
    """

    seed: int = setting(0, help="of weights and data")
    precision: str = setting("bf16-mixed", help="as Lightning names it", choices=PRECISIONS)
    compile: bool = setting(True, help="compile the decoder's layers")
    slot: int = setting(64, help="tokens of a slot of questions", ge=16)
    hint_layer: int = setting(6, help="the layer that must already know the answer's word", ge=1)
    hint_weight: float = setting(0.5, help="of that layer's loss beside the answer's", ge=0)
    warmup: int = setting(50, help="steps over which the rates rise at the very start", ge=1)
    validate_every: int = setting(500, help="steps between validations", ge=1)
    validate_rows: int = setting(96, help="validation streams", ge=1)
    save_every: int = setting(200, help="steps between checkpoints", ge=1)
    test_lengths: list[int] = setting([32, 64], help="streams the card's accuracies are of", unit="s")
    # Not every stream has a moment for every kind: 300 questions of each want a few more.
    test_streams: int = setting(310, help="of each length; 0: no accuracies, no card", ge=0)
    threads: int = setting(0, help="CPU threads; 0: torch's choice", ge=0)
    model: ModelConfig = setting(ModelConfig(), help="sizes")
    vision: VisionConfig = setting(VisionConfig(), help="stage 0")
    stages: dict[str, StageConfig] = setting({"only": StageConfig()}, help="the decoder's curriculum")
    validation: Mixture = setting(
        Mixture(stories=0.0, choices=0.3, gaps=0.0, length=[32, 32]), help="asked there"
    )

    def __post_init__(self) -> None:
        if not self.stages:
            raise SettingError("stages", {}, "at least one stage")
        if self.hint_weight and self.hint_layer > self.model.layers:
            allowed = f"1 to {self.model.layers}, the layers of the model"
            raise SettingError("hint_layer", self.hint_layer, allowed)


class Schedule:
    """Which stage a step belongs to, and its learning rates.

    >>> stages = {"a": StageConfig(steps=10), "b": StageConfig(steps=10, muon_lr=[0.01, 0.0])}
    >>> schedule = Schedule(TrainConfig(stages=stages, warmup=1))
    >>> schedule.steps, schedule.stage(10)[0], schedule(15)[0]
    (20, 'b', 0.005)
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.steps = sum(stage.steps for stage in config.stages.values())

    def stage(self, step: int) -> tuple[str, StageConfig, float]:
        """Name and settings of the stage of a step, and how much of it has passed (0 to 1)."""
        start = 0
        for name, stage in self.config.stages.items():
            if step < start + stage.steps:
                return name, stage, (step - start) / stage.steps
            start += stage.steps
        return name, stage, 1.0

    def __call__(self, step: int) -> tuple[float, float]:
        _, stage, passed = self.stage(step)
        rise = min(1.0, (step + 1) / self.config.warmup)
        muon, adam = (
            rise * (first + (last - first) * passed) for first, last in (stage.muon_lr, stage.adam_lr)
        )
        return muon, adam
