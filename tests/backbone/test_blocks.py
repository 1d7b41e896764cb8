"""Pictures whose tokens attend both ways, in pieces over a memory, against the model's own whole forward."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from hermes.attention import attention_set, memory_attention_set, reading
from hermes.backbone import Backbone
from hermes.decoding.prefill import prefill
from hermes.tokens import Chunk, Provenance, TokenKind
from tests.support.decoders import decoder
from tests.support.tolerances import close

pytestmark = pytest.mark.model

TEXT, SEEN = int(TokenKind.TIMESTAMP), int(TokenKind.VISUAL)
# Two pictures of six tokens behind what is written before each.
FRAMES = [TEXT] * 3 + [SEEN] * 6 + [TEXT] * 2 + [SEEN] * 6 + [TEXT]


def pieces(backbone: Backbone, count: int) -> tuple[list[Chunk], Tensor, Tensor]:
    """A prefix and ``count`` chunks of two frames; then the question's ids, and the embeddings of all."""
    generator = torch.Generator().manual_seed(count)
    scale = float(backbone.embed(torch.arange(9)[None]).std())
    chunks, first = [], 0
    for kinds in [[int(TokenKind.PREFIX)] * 4, *[FRAMES] * count]:
        size, kind = len(kinds), torch.tensor(kinds)
        embeds = backbone.embed(torch.randint(3, 200, (1, size), generator=generator))
        noise = torch.randn(embeds.shape, generator=generator) * scale
        embeds = torch.where((kind == SEEN)[:, None], noise, embeds)
        at = torch.arange(size)
        tokens = Provenance.of(size, id=first + at, frame=0 * at, kind=kind, time_us=0 * at)
        chunks.append(Chunk(embeds, at[None].float(), size, tokens, 2))
        first += size
    question = torch.randint(3, 200, (1, 5), generator=generator)
    return chunks, question, torch.cat([*(chunk.embeds for chunk in chunks), backbone.embed(question)], dim=1)


def over_memory(backbone: Backbone, chunks: Sequence[Chunk], question: Tensor) -> Tensor:
    memory = backbone.new_memory()
    for chunk in chunks:
        prefill(backbone, memory, chunk, prefix=not memory.prefix)
    at = memory.next_position + torch.arange(5.0)[None]
    with torch.no_grad(), memory_attention_set(backbone.model), reading(memory):
        hidden: Tensor = backbone.run(backbone.embed(question), at, memory).last_hidden_state
    return hidden


def kinds_of(chunks: Sequence[Chunk]) -> Tensor:
    return torch.cat([*(chunk.tokens.kind for chunk in chunks), torch.full((5,), TEXT)]) == SEEN


@torch.no_grad()
def whole(backbone: Backbone, embeds: Tensor, visual: Tensor) -> Tensor:
    """The model's own forward of everything at once."""
    kinds = visual.long()[None]
    with attention_set(backbone.model, "eager"):
        out = backbone.model.model(inputs_embeds=embeds, mm_token_type_ids=kinds)
    hidden: Tensor = out.last_hidden_state[:, -5:]
    return hidden


@pytest.mark.parametrize("count", [1, 3])
def test_frames_attend_both_ways_in_windows(count):
    backbone = decoder("gemma4")
    chunks, question, embeds = pieces(backbone, count)
    ours = over_memory(backbone, chunks, question)
    close("one_shot", ours, whole(backbone, embeds, kinds_of(chunks)))
    # The test would not see it otherwise.
    causal = whole(backbone, embeds, torch.zeros(embeds.shape[1], dtype=torch.bool))
    assert float((ours - causal).abs().max()) > 1e-2


def test_all_frames_of_a_chunk_attend_to_each_other():
    backbone = decoder("molmo2")
    chunks, question, embeds = pieces(backbone, 1)
    ours = over_memory(backbone, chunks, question)
    close("one_shot", ours, whole(backbone, embeds, kinds_of(chunks)))


@torch.no_grad()
def test_frames_of_another_chunk_are_the_past():
    backbone = decoder("molmo2")
    chunks, question, embeds = pieces(backbone, 3)
    n, visual = embeds.shape[1], kinds_of(chunks)
    number = torch.cat(
        [torch.full((len(chunk),), at) for at, chunk in enumerate(chunks)] + [torch.full((5,), 9)]
    )
    seen = torch.ones(n, n, dtype=torch.bool).tril()
    seen |= visual[:, None] & visual & (number[:, None] == number)
    bias = torch.zeros(1, 1, n, n).masked_fill(~seen, float("-inf"))
    with attention_set(backbone.model, "eager"):
        expected = backbone.decoder(inputs_embeds=embeds, attention_mask=bias).last_hidden_state
    close("one_shot", over_memory(backbone, chunks, question), expected[:, -5:])


def test_smaller_models_attend_causally_and_borrow_keys():
    backbone = decoder("gemma4 small")
    assert [spec.kind for spec in backbone.layer_specs] == ["window", "window", "managed"] + ["shared"] * 3
    chunks, question, embeds = pieces(backbone, 2)
    with torch.no_grad(), attention_set(backbone.model, "eager"):
        # Pictures count as padding where the vocabulary has embeddings for every layer.
        ids = torch.zeros(embeds.shape[:2], dtype=torch.long)
        table = backbone.decoder.embed_tokens(torch.arange(256))
        found = (embeds[0, :, None] == table).all(-1)
        ids[0, found.any(-1)] = found.long().argmax(-1)[found.any(-1)]
        layers = backbone.decoder.get_per_layer_inputs(ids, None)
        out = backbone.decoder(inputs_embeds=embeds, per_layer_inputs=layers)
    assert int(found.any(-1).sum()) == int((~kinds_of(chunks)).sum())
    close("one_shot", over_memory(backbone, chunks, question), out.last_hidden_state[:, -5:])
