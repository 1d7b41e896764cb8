"""Sessions and frames for the tests of streaming."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor

from hermes.decoding.generation import GenerationConfig
from hermes.policies.full import Full
from hermes.session.session import StreamSession
from hermes.video import Frame
from tests.support.references import FAMILIES, tiny

family = pytest.mark.parametrize("family", FAMILIES)


QUESTION = "What is the person doing now?"


PLAIN = GenerationConfig(max_new_tokens=5, repetition_penalty=1.0)


def frames(count: int, fps: float = 2.0, seed: int = 0) -> list[Frame]:
    images = np.random.default_rng(seed).integers(0, 256, (count, 84, 84, 3), dtype=np.uint8)
    return [Frame(image, i / fps, i) for i, image in enumerate(images)]


def session_on(name: str, policy=None, **options) -> StreamSession:
    return StreamSession(tiny(name), policy or Full(), **{"chunk_frames": 4, "generation": PLAIN, **options})


class Raw(LogitsProcessor):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, input_ids, scores):
        self.seen.append(scores[0].clone())
        return scores
