"""The thinker of Qwen2.5-Omni without sound: each chunk at the clock, its time axis in the stock steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hermes.backbone import self_check
from hermes.errors import UnsupportedModelError
from hermes.policies.hermes import Hermes
from hermes.session.session import StreamSession
from tests.support.families import QUESTION, encode, make_frames
from tests.support.tiny_models import tiny_model

pytestmark = pytest.mark.model


def test_a_chunk_has_the_stock_positions_of_such_a_video():
    backbone: Any = tiny_model("omni_thinker", "stream")
    _, chunk = encode(backbone, make_frames(6), [], 1.0)[0]
    parts, token = backbone.native_parts, backbone.video_marker
    ids = backbone.encode(f"{parts.prefix}{token * len(chunk)}{parts.before}{QUESTION}{parts.after}")
    rows, cols = (2 * (int(axis.max()) + 1) for axis in (chunk.tokens.row, chunk.tokens.col))
    grid, seconds = torch.tensor([[3, rows, cols]]), torch.tensor([2.0])
    stock, _ = backbone.core.get_rope_index(ids, video_grid_thw=grid, second_per_grids=seconds)
    seen = stock[:, 0, ids[0] == backbone.processor.video_token_id].float()
    assert torch.equal(chunk.positions, seen - seen.min())
    assert chunk.positions[0].unique().tolist() == [0, 50, 100]


def test_it_streams_within_a_budget():
    backbone = tiny_model("omni_thinker", "stream")
    assert max(self_check(backbone).values()) < 1e-4
    session = StreamSession(backbone, Hermes(budget=24), fps=1, chunk_frames=4)
    session.feed(make_frames(16, 1.0))
    assert max(session.memory.lengths) <= session.memory.prefix + 24
    assert session.ask("What now?", max_new_tokens=2).ids.tolist()


def test_its_native_layout_is_refused():
    with pytest.raises(UnsupportedModelError, match=r"positions.*layout=stream"):
        tiny_model("omni_thinker")
