"""StreamingTOM against loops: the reduction of a frame, the 4-bit store, and which frames are read."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AttentionInterface

from hermes.backbone import encode
from hermes.errors import InputError
from hermes.policies.streamingtom import StreamingTom
from hermes.policy import Store, density_peaks, temporal_reduction
from hermes.session.session import StreamSession
from hermes.testing import Trial
from hermes.tokens import VideoState
from tests.support.asking import stream_and_ask
from tests.support.references import FAMILIES, slow_quantise, tiny
from tests.support.rivals import still_frames
from tests.support.tolerances import close

unit, model = pytest.mark.unit, pytest.mark.model


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)) / len(a))


def slow_peaks(x: torch.Tensor, count: int, neighbours: int) -> tuple[list[int], list[int]]:
    n = len(x)
    density = []
    for i in range(n):
        others = sorted(distance(x[i], x[j]) for j in range(n) if j != i)[:neighbours]
        density.append(math.exp(-sum(d * d for d in others) / len(others)) if others else 1.0)
    product = []
    for i in range(n):
        # Two nearest neighbours of each other are equally dense: the earlier counts as denser.
        denser = [distance(x[i], x[j]) for j in range(n) if (-density[j], j) < (-density[i], i)]
        product.append(density[i] * (min(denser) if denser else max(distance(x[i], other) for other in x)))
    peaks = sorted(sorted(range(n), key=lambda i: -product[i])[:count])
    nearest = [min(range(count), key=lambda p: distance(x[i], x[peaks[p]])) for i in range(n)]
    return peaks, nearest


def slow_reduction(x, previous, worth, room, static, neighbours, beta):
    """The frame's tokens that stay, by index, each with what it has become."""
    n = len(x)
    still = []
    for i in range(n):
        if previous is not None:
            dot = sum(float(a) * float(b) for a, b in zip(x[i], previous[i], strict=True))
            if dot / (float(x[i].norm()) * float(previous[i].norm())) > static:
                still.append(i)
    moving = [i for i in range(n) if i not in still]
    k_still = math.floor(room * len(still) / n)
    k_moving = room - k_still
    if k_moving > len(moving):
        k_moving = len(moving)
        k_still = room - k_moving
    out = {i: x[i] for i in sorted(moving, key=lambda i: -float(worth[i]))[:k_moving]}
    if k_still:
        peaks, nearest = slow_peaks(x[torch.tensor(still)], k_still, neighbours)
        for number, peak in enumerate(peaks):
            mine = [x[still[i]] for i in range(len(still)) if nearest[i] == number]
            out[still[peak]] = beta * x[still[peak]] + (1 - beta) * sum(mine) / len(mine)
    return dict(sorted(out.items()))


@unit
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("neighbours", [1, 5, 50])
def test_density_peaks(seed, neighbours):
    x = torch.randn(11, 4, generator=torch.Generator().manual_seed(seed))
    peaks, nearest = density_peaks(x, 4, neighbours)
    assert (peaks.tolist(), nearest.tolist()) == slow_peaks(x, 4, neighbours)


@unit
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.0], ids="{} static".format)
@pytest.mark.parametrize("room", [1, 5, 12])
def test_a_frame_is_reduced_as_by_loops(share, room):
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        previous, worth = torch.randn(12, 6, generator=generator), torch.rand(12, generator=generator)
        fresh = torch.randn(12, 6, generator=generator)
        same = torch.arange(12) < round(share * 12)
        x = torch.where(same[:, None], previous + 0.05 * fresh, fresh)
        before = None if seed == 3 else previous
        kept, weights = temporal_reduction(x, before, worth, room, 0.9, 3, 0.7)
        expected = slow_reduction(x, before, worth, room, 0.9, 3, 0.7)
        assert kept.tolist() == list(expected)
        assert len(kept) == room
        close("mix", weights @ x, torch.stack(list(expected.values())))


@model
@pytest.mark.parametrize("family", FAMILIES)
def test_frames_are_reduced_in_the_stream_and_across_chunks(family):
    """Every visual token that the decoder reads, against loops over whole frames with their saliency."""
    backbone = tiny(family)
    frames = still_frames(8)
    state, session = VideoState(), StreamSession(backbone, StreamingTom(budget=60, share=0.5), chunk_frames=4)
    backbone.prefix(state)
    read = []
    session.policy.archive = lambda memory, updates, observe: None
    inner = session.policy.reduce
    session.policy.reduce = lambda chunk: read.append(inner(chunk)) or read[-1]
    session.feed(frames)
    assert len(read) == 2
    previous = None
    for number, chunk in enumerate(read):
        whole = encode(backbone, frames[4 * number : 4 * number + 4], state, session.fps, saliency=True)
        ours = {int(i): chunk.embeds[0, at] for at, i in enumerate(chunk.tokens.id)}
        expected = {}
        for frame in whole.tokens.frame.unique():
            slots = ((whole.tokens.frame == frame) & (whole.tokens.row >= 0)).nonzero().flatten()
            x = whole.embeds[0, slots]
            room = round(0.5 * len(slots))
            kept = slow_reduction(x, previous, whole.saliency[slots], room, 0.9, 5, 0.5)
            expected |= {int(whole.tokens.id[slots[at]]): token for at, token in kept.items()}
            previous = x
        text = {int(i) for i, row in zip(whole.tokens.id, whole.tokens.row, strict=True) if row < 0}
        assert set(ours) == set(expected) | text
        assert chunk.tokens.id.tolist() == sorted(ours)
        assert chunk.advance == whole.advance
        for name, token in expected.items():
            close("mix", ours[name], token)


@model
@pytest.mark.parametrize("family", FAMILIES)
def test_saliency_is_the_attention_received_in_the_encoder(family):
    """Against the eager encoder's own attention weights, and pooled or merged by loops."""
    backbone = tiny(family)
    frames, seen = Trial("full", backbone).frames(4), []
    chunk = encode(backbone, frames, VideoState(), backbone.fps, saliency=True)
    plain = backbone.video(frames, VideoState(), fps=backbone.fps)
    close("mix", chunk.embeds, plain.embeds)
    vision = backbone.model.model.vision_tower if family == "llava_onevision" else backbone.model.model.visual
    last = vision.encoder.layers[-1].self_attn if family == "llava_onevision" else vision.blocks[-1].attn
    before = backbone.model.config.vision_config._attn_implementation

    def eager(module, query, key, value, attention_mask, scaling=None, **options):
        weights = torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1)
        if module is last:
            seen.append(weights)
        return (weights @ value).transpose(1, 2).contiguous(), None

    AttentionInterface.register("plain_eager", eager)
    backbone.model.set_attn_implementation({"vision_config": "plain_eager"})
    backbone.video(frames, VideoState(), fps=backbone.fps)
    backbone.model.set_attn_implementation({"vision_config": before})
    received = torch.cat([w[f].mean(0).mean(0) for w in seen for f in range(len(w))])
    visual = chunk.saliency[chunk.tokens.row >= 0]
    if family == "llava_onevision":
        # 6 x 6 patches to 3 x 3 tokens.
        grid = received.view(4, 3, 2, 3, 2)
        expected = grid.mean((2, 4)).flatten()
    else:
        merged = received.view(-1, 4).mean(1)
        assert sorted(merged.tolist()) == pytest.approx(sorted(visual.tolist()), abs=1e-6)
        if family == "qwen2_5_vl":
            # The encoder's order: windows of 2 x 2 tokens over 3 x 3.
            order = [(r, c) for rr in (0, 2) for cc in (0, 2) for r in (rr, rr + 1) for c in (cc, cc + 1)]
            order = [(r, c) for r, c in order if r < 3 and c < 3]
            at = {place: number for number, place in enumerate(order)}
            raster = [at[r, c] for r in range(3) for c in range(3)]
            merged = torch.cat([part[raster] for part in merged.split(9)])
        expected = merged
    close("mix", visual, expected)


@model
def test_a_chunk_without_saliency_is_refused():
    trial = Trial("full")
    with pytest.raises(InputError, match="saliency"):
        StreamSession(trial.backbone, StreamingTom(budget=60)).feed_chunk(trial.chunks(1, 0)[0])
    StreamSession(trial.backbone, StreamingTom(budget=60, saliency="norm")).feed_chunk(trial.chunks(1, 0)[0])


@model
@pytest.mark.parametrize("per_head", [False, True])
def test_every_layer_reads_its_best_frames_out_of_four_bits(per_head):
    asked = stream_and_ask(StreamingTom(budget=40, share=0.5, per_head=per_head))
    prefix, session = asked.session.memory.prefix, asked.session
    # Round half to even: 4 of 9 tokens.
    ids = sorted(name for name in asked.keys[0] if name >= prefix)
    frames = [ids[at : at + 4] for at in range(0, len(ids), 4)]
    assert len(frames) == session.frames_seen
    different = set()
    for layer in asked.fork:
        at = layer.index
        queries, scores = asked.queries[at], []
        for names in frames:
            pairs = []
            for head in range(2):
                query = queries[2 * head : 2 * head + 2].mean((0, 1))
                pairs.append((query, sum(asked.keys[at][name][head] for name in names) / len(names)))
            if not per_head:
                pairs = [tuple(torch.cat(side) for side in zip(*pairs, strict=True))]
            scores.append(sum(float(q @ k) / float(q.norm() * k.norm()) for q, k in pairs))
        best = sorted(sorted(range(len(frames)), key=lambda i: -scores[i])[:10])
        assert asked.ids(at) == [name for i in best for name in frames[i]]
        different.add(tuple(best))
        # Positions are contiguous, values those of the four bits of each frame and channel.
        assert layer.positions.flatten().tolist() == list(range(prefix + 40))
        for place, i in enumerate(best):
            own = torch.stack([asked.values[at][name] for name in frames[i]], dim=1)
            slots = slice(prefix + 4 * place, prefix + 4 * place + 4)
            for head in range(2):
                slow = slow_quantise(own[head], 4, "tokens", None)
                close("mix", layer.values[0, head, slots], slow)
    assert len(different) > 1


@model
def test_each_part_works_alone():
    every = {"ctr": False, "retrieve": False, "store": Store()}
    reduced = stream_and_ask(StreamingTom(**{**every, "budget": 40, "ctr": True}))
    assert reduced.session.policy.archived_bytes == 0
    assert reduced.session.memory[0].video.frame.unique().tolist() == list(range(20))  # two tokens a frame
    retrieved = stream_and_ask(StreamingTom(**{**every, "budget": 40, "retrieve": True}))
    stored = stream_and_ask(StreamingTom(budget=40, ctr=False))
    assert retrieved.session.policy.archived_bytes > 2 * stored.session.policy.archived_bytes
    assert retrieved.ids(5) == stored.ids(5)
    plain = stream_and_ask(StreamingTom(**every, budget=40))
    assert plain.ids(5) == sorted(plain.keys[0])[-40:]


@model
def test_a_saved_stream_knows_its_last_frame(tmp_path):
    frames, backbone = still_frames(12), tiny("llava_onevision")
    whole, again = (
        StreamSession(backbone, StreamingTom(budget=40, share=0.5), chunk_frames=4) for _ in range(2)
    )
    whole.feed(frames[:8])
    whole.save(tmp_path)
    again.resume(tmp_path)
    for session in (whole, again):
        session.feed(frames[8:])
    assert torch.equal(whole.memory[4].keys, again.memory[4].keys)
