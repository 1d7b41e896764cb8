"""A whole training: vision, the table of looks, the decoder's stages, and the directory at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from hermes.config import Settings, setting
from hermes.files import make_folder, write_torch_whole, writing
from hermes.machine.lightning import interruptible
from hermes.training.card import write_card
from hermes.training.decoder import DecoderModule
from hermes.training.model import build_model, save_model
from hermes.training.packing import Batch, Packer
from hermes.training.progress import StepBar
from hermes.training.settings import Schedule, TrainConfig
from hermes.training.vision import Pictures, VisionModule, feature_table
from hermes.training.words import Prompt, build_tokenizer

__all__ = ["Streams", "TrainRun", "train_model"]

_log = logging.getLogger("hermes.training")
_KEPT = "The run goes on from its last checkpoint."


@dataclass
class TrainRun(Settings):
    """Settings of ``hermes train``."""

    training: TrainConfig = field(
        default_factory=TrainConfig, metadata={"help": "a file of configs/training"}
    )
    output: Path = setting(
        Path("runs/train"), help="folder of checkpoints, logs and the model; a stopped run goes on there"
    )


class _Steps(IterableDataset[Batch]):
    """Batches from the trainer's current step on, so that a resumed run goes on where it was."""

    def __init__(self, data: Streams) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        start = self.data.trainer.global_step if self.data.trainer else 0
        for step in range(start, self.data.schedule.steps):
            yield self.data.batch(step)


class Streams(LightningDataModule):  # type: ignore[misc]
    """Packed rows of Wanderer: training by stages, validation on held-out ones."""

    def __init__(self, config: TrainConfig, prompt: Prompt) -> None:
        super().__init__()
        self.config = config
        self.prompt = prompt
        self.schedule = Schedule(config)

    def batch(self, step: int) -> Batch:
        """The training batch of a step."""
        _, stage, _ = self.schedule.stage(step)
        packer = Packer(
            self.prompt, "train", self.config.seed, rows=stage.rows, slots=stage.slots, slot=self.config.slot
        )
        return packer.batch(stage.mixture, step)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the stages, from the trainer's step on."""
        return DataLoader(_Steps(self), batch_size=None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the validation split."""
        rows = 16
        packer = Packer(
            self.prompt, "validation", self.config.seed, rows=rows, slots=4, slot=self.config.slot
        )
        batches = [
            packer.batch(self.config.validation, i) for i in range(-(-self.config.validate_rows // rows))
        ]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def train_model(config: TrainConfig, folder: str | Path) -> Path:
    """Train from scratch, or go on from the last checkpoint in ``folder``.

    Returns:
        The model's directory, ``folder/model``.
    """
    folder = make_folder(folder)
    if config.threads:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed, verbose=False)
    tokenizer = build_tokenizer()
    prompt = Prompt(tokenizer)
    model = build_model(config.model, tokenizer)
    _see(model, config, prompt, folder)
    schedule = Schedule(config)
    table = feature_table(model, config.vision.variants, config.seed)
    module = DecoderModule(
        model,
        table,
        schedule,
        slot=config.slot,
        compiled=config.compile,
        hint_layer=config.hint_layer,
        hint_weight=config.hint_weight,
    )
    checkpoint = ModelCheckpoint(
        dirpath=folder / "decoder", filename="{step}", every_n_train_steps=config.save_every, save_last=True
    )
    trainer = _trainer(config, folder, "decoder", schedule.steps, checkpoint, config.validate_every)
    last = _newest(folder / "decoder")
    with interruptible(), writing(folder, _KEPT):
        trainer.fit(module, datamodule=Streams(config, prompt), ckpt_path=last)
    save_model(model, tokenizer, folder / "model")
    if config.test_streams:
        write_card(folder / "model", config, module.seconds, folder / "eval")
    return folder / "model"


def _see(model: Any, config: TrainConfig, prompt: Prompt, folder: Path) -> None:
    """Stage 0, once: its result is kept beside the checkpoints."""
    done = folder / "vision.pt"
    if (kept := _loaded(done)) is not None:
        model.load_state_dict(kept)
        return
    embedding = model.get_input_embeddings().weight.detach().clone()
    pictures = Pictures(config.vision, "train", config.seed, embedding, prompt)
    trainer = _trainer(config, folder, "vision", config.vision.steps, None, None)
    with interruptible(), writing(folder, _KEPT):
        trainer.fit(VisionModule(model, config.vision), DataLoader(pictures, batch_size=None, shuffle=False))
    write_torch_whole(done, model.state_dict())


def _newest(folder: Path) -> Path | None:
    """The last checkpoint that is whole: a machine that went down may have left half of one."""
    steps = sorted(folder.glob("step=*.ckpt"), key=lambda path: (len(path.name), path.name), reverse=True)
    whole = (path for path in (folder / "last.ckpt", *steps) if _loaded(path) is not None)
    return next(whole, None)


def _loaded(path: Path) -> Any:
    """What a file of tensors holds; None where there is none, or it is not whole. It runs no code."""
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        _log.warning("%s cannot be read (%s): passed over", path, str(error).partition("\n")[0])
        return None


def _trainer(
    config: TrainConfig, folder: Path, name: str, steps: int, checkpoint: Any, validate_every: int | None
) -> Trainer:
    return Trainer(
        accelerator="auto",
        devices=1,
        precision=config.precision if name == "decoder" else "32-true",
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None if validate_every else 1,
        limit_val_batches=1.0 if validate_every else 0,
        num_sanity_val_steps=0,
        gradient_clip_val=None,
        logger=CSVLogger(folder / "logs", name=name, flush_logs_every_n_steps=20),
        callbacks=[StepBar(name), *([checkpoint] if checkpoint else [])],
        enable_checkpointing=checkpoint is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=20,
    )
