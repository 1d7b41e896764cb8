"""The tiny families, and a stream encoded and answered by hand with the plain decoder."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from hermes.backbone import Backbone, BackboneConfig, load_backbone
from hermes.tokens import Chunk, VideoState, expand_axes
from hermes.video import Frame

FAMILIES = ("llava_onevision", "qwen2_5_vl", "qwen3_vl")
QUESTION = "What is the person doing now?"
NEW_TOKENS = 16

each_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def tiny(family: str, layout: str = "stream") -> Backbone:
    return load_backbone(BackboneConfig(family=f"tiny_{family}", layout=layout))


def make_frames(count: int, fps: float = 2.0, height: int = 72, width: int = 128) -> list[Frame]:
    rng = np.random.default_rng(height)
    images = rng.integers(0, 256, (count, height, width, 3), np.uint8)
    return [Frame(image, i / fps, i) for i, image in enumerate(images)]


def encode(
    backbone: Backbone, frames: list[Frame], cuts: list[int], fps: float
) -> tuple[list[Chunk], VideoState]:
    """The prefix and the frames, in chunks that end at ``cuts``."""
    state = VideoState()
    chunks = [backbone.prefix(state)]
    bounds = [0, *cuts, len(frames)]
    for start, stop in pairwise(bounds):
        chunks.append(backbone.video(frames[start:stop], state, fps=fps))
    return chunks, state


def absolute(chunks: list[Chunk]) -> torch.Tensor:
    """Positions ``[A, n]`` of consecutive chunks."""
    clock, positions = 0, []
    for chunk in chunks:
        positions.append(chunk.positions + clock)
        clock += chunk.advance
    return torch.cat(positions, dim=-1)


@torch.no_grad()
def answer(backbone: Backbone, chunks: list[Chunk], state: VideoState) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy answer and first logits of the plain decoder, fed chunk by chunk at our explicit positions."""
    cache, clock = DynamicCache(config=backbone.text_config), 0

    def forward(embeds: torch.Tensor, positions: torch.Tensor, chunk: Chunk | None = None) -> torch.Tensor:
        hidden = backbone.run(embeds, positions, cache, chunk).last_hidden_state
        return backbone.model.lm_head(hidden[:, -1])

    for chunk in chunks:
        forward(chunk.embeds, chunk.positions + clock, chunk)
        clock += chunk.advance
    question = backbone.embed(backbone.encode(backbone.question_text(QUESTION)))
    closing = backbone.closing(state)
    tail = question if closing is None else torch.cat([closing, question], dim=1)
    positions = torch.arange(tail.shape[1], dtype=torch.float32) + clock
    logits = first = forward(tail, expand_axes(positions, backbone.axes))
    tokens = []
    clock += tail.shape[1]
    for position in range(clock, clock + NEW_TOKENS):
        tokens.append(logits.argmax(-1))
        if tokens[-1] == backbone.tokenizer.eos_token_id:
            break
        # Behind the question, even where the video's time axis reaches further.
        logits = forward(
            backbone.embed(tokens[-1].unsqueeze(0)), torch.full((backbone.axes, 1), float(position))
        )
    return torch.cat(tokens), first[0]
