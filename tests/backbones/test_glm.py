"""GLM-4.1V and GLM-4.6V: a memory of pairs of even and odd channels, against a dense one."""

from __future__ import annotations

import pytest
import torch

from hermes.attention import Guidance
from hermes.decoding.observer import DecoderObserver
from hermes.session.opening import open_session
from tests.support.families import QUESTION, make_frames
from tests.support.memory_cases import held_beside
from tests.support.references import new_memory, noise_chunk, prefill
from tests.support.tiny_glm import DenseGlm
from tests.support.tiny_models import tiny_model
from tests.support.tolerances import close

pytestmark = pytest.mark.model


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("name", ["glm4v", "glm46v"])
def test_a_ragged_memory_is_a_dense_one(name, heads):
    backbone = tiny_model(name, "stream")
    held_beside(backbone, DenseGlm(backbone), heads=heads, seed=heads)


@pytest.mark.parametrize("mode", ["exact", "embedding"])
def test_attention_of_a_guidance_prompt_is_that_of_a_dense_memory(mode):
    backbone = tiny_model("glm4v", "stream")
    memory, dense = new_memory(backbone), DenseGlm(backbone)
    chunk = noise_chunk(backbone, 14, 1)
    prefill(backbone, memory, chunk)
    dense.run(chunk.embeds[0], chunk.positions, chunk.tokens.id.tolist())
    guidance = Guidance("What happened?", mode)
    found = DecoderObserver(backbone, memory).attention({0: [guidance], 2: [guidance]})
    embeds = backbone.embed(backbone.encode_plain("What happened?"))[0]
    steps = torch.arange(float(len(embeds))).expand(3, -1)
    if mode == "exact":
        _, weights = dense.run(embeds, steps)
    else:
        parts = [dense.project(index, embeds)[:2] for index in range(3)]
        weights = [dense.attention(index, *part, steps, causal=False) for index, part in enumerate(parts)]
    for index in (0, 2):
        mean = weights[index][..., :14].mean((0, 1))
        close("observed", found[index, guidance][0, 0], mean.float())


def test_a_bounded_stream_answers():
    backbone = tiny_model("glm4v", "stream")
    session = open_session(backbone, "hermes", budget=60, overrides=["stream.chunk_frames=4"])
    session.feed(make_frames(24))
    answer = session.ask(QUESTION)
    assert answer.ids.numel()
    assert max(session.memory.lengths) <= session.memory.prefix + 60 + 1
