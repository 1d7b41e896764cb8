"""Stage 0: the vision tower learns to write what it sees as a sum of word embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from hermes.backbone import visual_features
from hermes.config import Settings, setting
from hermes.data.wanderer.rendering import render
from hermes.data.wanderer.world import COLOURS, CORNERS, OBJECTS, PLACES, SHAPES, Split, codes
from hermes.training.words import Prompt, visual_words

__all__ = ["Pictures", "VisionConfig", "VisionModule", "feature_table", "targets"]

TOKENS_PER_FRAME = 4


@dataclass
class VisionConfig(Settings):
    """Settings ``vision.*`` of a training."""

    steps: int = setting(1500, help="optimiser steps", ge=0)
    batch: int = setting(96, help="frames a step", ge=1)
    lr: float = setting(2e-3, help="highest learning rate of AdamW", gt=0)
    noise: float = setting(8.0, help="most pixel noise, of 255", ge=0)
    variants: int = setting(4, help="pictures of each look in the table the decoder is trained from", ge=1)


# How loudly a frame says its place, colour, shape, corner, object, or that there is none.
_LOUDNESS = (1.0, 0.8, 0.8, 0.8, 1.0, 0.8)


def targets(looks: Int[np.ndarray, "n 4"], embedding: Float[Tensor, "vocab d"], prompt: Prompt) -> Tensor:
    """What each look's tokens should say: the weighted sum of its words' embeddings ``[n, d]``.

    Args:
        looks: rows of ``world.codes``.
        embedding: the input embeddings.
        prompt: names words' tokens.
    """
    rows = embedding[torch.tensor([prompt.word(word) for word in visual_words()])]
    starts = np.cumsum([0, len(PLACES), len(COLOURS), len(SHAPES), len(CORNERS), OBJECTS])
    out = torch.zeros(len(looks), embedding.shape[1])
    place, obj, corner = (torch.from_numpy(column) for column in looks[:, 1:].T)
    there = (obj >= 0).float().unsqueeze(1)
    colour, shape = obj.div(len(SHAPES), rounding_mode="floor"), obj % len(SHAPES)
    parts = (place, colour, shape, corner, obj)
    for i, (part, loudness) in enumerate(zip(parts, _LOUDNESS[:-1], strict=True)):
        said = loudness * rows[int(starts[i]) + part.clamp(min=0)]
        out += said if i == 0 else there * said
    return out + (1 - there) * _LOUDNESS[-1] * rows[int(starts[-1])]


def normalised(images: np.ndarray) -> Float[Tensor, "n 3 H W"]:
    """Rendered frames as the preprocessor gives them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Random looks of a split, drawn with noise, changed light and a little blur: one batch an item."""

    def __init__(
        self, config: VisionConfig, split: Split, seed: int, embedding: Tensor, prompt: Prompt
    ) -> None:
        self.config = config
        self.seed = seed
        self.looks = codes(split)
        self.targets = targets(self.looks, embedding, prompt)

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, 2, step))
        # A sixth without an object.
        empty = np.flatnonzero(self.looks[:, 2] < 0)
        picked = rng.integers(0, len(self.looks), self.config.batch)
        picked[: self.config.batch // 6] = rng.choice(empty, self.config.batch // 6)
        images = render(self.looks[picked, 0], rng, noise=float(rng.uniform(0, self.config.noise)))
        pixels = normalised(images)
        light = torch.from_numpy(rng.uniform(0.92, 1.08, (len(picked), 3, 1, 1))).float()
        pixels = ((pixels + 1) * light - 1).clamp(-1, 1)
        soft = F.avg_pool2d(pixels, 3, stride=1, padding=1, count_include_pad=False)
        share = torch.from_numpy(rng.uniform(0, 0.5, (len(picked), 1, 1, 1)) * rng.integers(0, 2)).float()
        return pixels.lerp(soft, share), self.targets[picked]


class VisionModule(LightningModule):  # type: ignore[misc]
    """Regresses each of a frame's tokens onto the sum of its words."""

    def __init__(self, model: Any, config: VisionConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        """Squared error, summed over the embedding."""
        pixels, wanted = batch
        loss = (features(self.model, pixels) - wanted[:, None]).square().sum(-1).mean()
        self.log("vision/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        """The optimiser of every trained parameter."""
        parts = [
            *self.model.model.vision_tower.parameters(),
            *self.model.model.multi_modal_projector.parameters(),
        ]
        optimizer = torch.optim.AdamW(parts, lr=self.config.lr, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.config.lr, total_steps=self.config.steps + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def features(model: Any, pixels: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n t d"]:
    """A few frames' tokens, as the backbone gets them."""
    count = len(pixels) * TOKENS_PER_FRAME
    found = visual_features(model.get_video_features(pixels.unsqueeze(0)), count)
    return found.view(len(pixels), TOKENS_PER_FRAME, -1)


@torch.no_grad()
def feature_table(model: Any, variants: int, seed: int) -> Float[Tensor, "variants rows d"]:
    """Every look's tokens, from a few pictures of each: what the decoder is trained on in place of frames."""
    looks = codes()[:, 0]
    tables = []
    for variant in range(variants):
        rng = np.random.default_rng((seed, 3, variant))
        images = normalised(render(looks, rng, noise=4.0))
        tables.append(torch.cat([features(model, part) for part in images.split(256)]).flatten(0, 1))
    return torch.stack(tables)
