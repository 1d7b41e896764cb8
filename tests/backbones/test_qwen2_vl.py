"""Qwen2-VL, whose time axis counts groups of frames."""

from __future__ import annotations

import pytest

from hermes.backbone import self_check
from hermes.policies.hermes import Hermes
from hermes.session.session import StreamSession
from tests.backbones.test_backbones import stock_inputs
from tests.support.families import NEW_TOKENS, answer, encode, make_frames
from tests.support.tiny_qwen2_vl import tiny_qwen2_vl
from tests.support.tolerances import close

pytestmark = pytest.mark.model


@pytest.mark.parametrize(("count", "cuts", "fps"), [(8, [], 2.0), (7, [2, 6], 3.0)])
def test_native_layout_answers_like_stock_generate(count, cuts, fps):
    backbone, frames = tiny_qwen2_vl("native"), make_frames(count, fps)
    inputs = stock_inputs(backbone, frames, fps)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    stock = backbone.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    chunks, state = encode(backbone, frames, cuts, fps)
    tokens, logits = answer(backbone, chunks, state)
    close("one_shot", logits, stock.logits[0][0])
    assert tokens.tolist() == stock.sequences[0, inputs["input_ids"].shape[1] :].tolist()


def test_stream_positions_count_groups_whatever_the_rate():
    for fps in (1.0, 3.0):
        chunk = encode(tiny_qwen2_vl(), make_frames(8), [], fps=fps)[0][1]
        assert chunk.positions[0].unique().tolist() == [0, 1, 2, 3]
    assert max(self_check(tiny_qwen2_vl()).values()) < 1e-4


def test_it_streams_within_a_budget():
    session = StreamSession(tiny_qwen2_vl(), Hermes(budget=24), fps=2, chunk_frames=4)
    session.feed(make_frames(16))
    assert max(session.memory.lengths) <= session.memory.prefix + 24
    assert session.ask("What now?", max_new_tokens=2).ids.tolist()
