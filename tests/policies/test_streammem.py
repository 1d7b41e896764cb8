"""StreamMem against its rule as loops: the filter, the proxy's attention, the choice, the prototypes."""

from __future__ import annotations

import math

import pytest
import torch

from hermes import Chunk, Provenance
from hermes.attention import Guidance
from hermes.decoding.observer import _mass
from hermes.policies.streammem import StreamMem
from hermes.session.session import StreamSession
from hermes.testing import Trial
from hermes.tokens import TokenKind
from tests.support.references import rope, tiny, toy_rotary
from tests.support.rivals import HEADS, PREFIX, steps
from tests.support.tolerances import close

unit, model = pytest.mark.unit, pytest.mark.model


# -- the filter --------------------------------------------------------------------------------------------


def chunk_of(frames: list[torch.Tensor], stamps: int = 0, deep: int = 0) -> Chunk:
    """Frames of features ``[B, n, hidden]``, each after so many timestamp tokens."""
    parts, embeds, at = [], [], 0
    for number, frame in enumerate(frames):
        if stamps:
            parts.append(Provenance.text(stamps, first_id=at, kind=TokenKind.TIMESTAMP, frame=number))
            embeds.append(torch.zeros(frame.shape[0], stamps, frame.shape[2]))
        parts.append(
            Provenance.visual(first_id=at + stamps, frame=number, time=number, rows=1, cols=frame.shape[1])
        )
        embeds.append(frame)
        at += stamps + frame.shape[1]
    joined = torch.cat(embeds, dim=1)
    levels = tuple(joined * (level + 2) for level in range(deep))
    return Chunk(joined, torch.arange(at).float()[None], at, Provenance.cat(parts), len(frames), levels)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def filtered(
    frames: list[torch.Tensor], delta: float, compare: str
) -> list[tuple[int, list[list[list[float]]]]]:
    """First frame's number and the mean of its members, for each group of alike frames."""
    groups: list[list[int]] = []

    def mean(group: list[int]) -> list[list[list[float]]]:
        shape = frames[0].shape
        return [
            [
                [sum(float(frames[f][b, p, c]) for f in group) / len(group) for c in range(shape[2])]
                for p in range(shape[1])
            ]
            for b in range(shape[0])
        ]

    for number, frame in enumerate(frames):
        alike = bool(groups)
        for b in range(frame.shape[0]):
            if not alike:
                break
            one, other = mean(groups[-1])[b], frame[b].tolist()
            if compare == "frame":
                pooled = [
                    [sum(column) / len(rows) for column in zip(*rows, strict=True)] for rows in (one, other)
                ]
                value = cosine(*pooled)
            else:
                value = sum(cosine(a, c) for a, c in zip(one, other, strict=True)) / len(one)
            alike = value > delta
        if alike:
            groups[-1].append(number)
        else:
            groups.append([number])
    return [(group[0], mean(group)) for group in groups]


@unit
@pytest.mark.parametrize("compare", ["frame", "patch"])
def test_alike_frames_are_averaged_into_the_first(compare):
    torch.manual_seed(3)
    scenes = [torch.randn(1, 3, 4) for _ in range(3)]
    frames = [scenes[s] + 0.12 * torch.randn(1, 3, 4) for s in (0, 0, 0, 1, 1, 0, 2, 2)]
    expected = filtered(frames, 0.9, compare)
    assert 3 <= len(expected) < 8, [first for first, _ in expected]
    chunk = chunk_of(frames, stamps=2, deep=1)
    policy = StreamMem(delta=0.9, compare=compare)
    out = policy.reduce(chunk)
    assert out.advance == chunk.advance
    assert out.frames == 8
    assert out.tokens.frame.unique().tolist() == [first for first, _ in expected]
    for (first, mean), after in zip(expected, [*expected[1:], (8, None)], strict=True):
        own = (out.tokens.frame == first) & (out.tokens.kind == int(TokenKind.VISUAL))
        assert int((out.tokens.frame == first).sum()) == 5
        close("one_shot", out.embeds[:, own], torch.tensor(mean))
        close("one_shot", out.deepstack[0][:, own], 2 * torch.tensor(mean))
        assert out.tokens.weight[own].tolist() == [after[0] - first] * 3
        assert out.positions[0, own].tolist() == chunk.positions[0, chunk.tokens.frame == first][2:].tolist()
    # The chunk that came in is as it was.
    assert torch.equal(chunk.embeds, chunk_of(frames, stamps=2).embeds)


@unit
def test_the_filter_can_be_off_and_leaves_other_sizes_alone():
    frame = torch.ones(1, 3, 4)
    assert len(StreamMem().reduce(chunk_of([frame, frame]))) == 3
    assert len(StreamMem(delta=1.0).reduce(chunk_of([frame, frame]))) == 6
    assert len(StreamMem().reduce(chunk_of([frame, torch.ones(1, 2, 4), torch.ones(1, 2, 4)]))) == 5
    assert len(StreamMem().reduce(chunk_of([frame]))) == 3


# -- the proxy's attention ---------------------------------------------------------------------------------


@unit
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("per_head", [True, False])
@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("among", ["all", "video"])
def test_attention_among_video_tokens_and_its_maximum(causal, per_head, pool, among):
    memory, _, _ = next(iter(steps(StreamMem(budget=99, delta=1), (2,))))
    layer = memory[0]
    query, own = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    guidance = Guidance("", per_head=per_head, among=among, pool=pool)
    ours = _mass(query, layer.keys, own, layer, guidance, causal=causal, scaling=8**-0.5)
    rows = torch.zeros(2, 2, 3, 12, dtype=torch.float64)
    for head in range(4):
        for i in range(3):
            keys = [layer.keys[0, head // 2, PREFIX:]]
            if among == "all":
                keys = [layer.keys[0, head // 2], own[0, head // 2, : i + 1 if causal else 3]]
            logits = torch.cat(keys).double() @ query[0, head, i].double() * 8**-0.5
            first = PREFIX if among == "all" else 0
            rows[head // 2, head % 2, i] = logits.softmax(0)[first : first + 12]
    if pool == "mean":
        expected = rows.mean((1, 2))
        expected = expected if per_head else expected.mean(0, keepdim=True)
    else:
        expected = rows.amax((1, 2))
        expected = expected if per_head else expected.amax(0, keepdim=True)
    close("scores", ours[0], expected)


@model
def test_the_proxy_is_the_end_of_the_chat_template():
    session = StreamSession(tiny("llava_onevision"), StreamMem(budget=60, delta=1), chunk_frames=4)
    seen = []
    attention = session.observer.attention
    session.observer.attention = lambda requests: seen.append(requests) or attention(requests)
    session.feed(Trial("fifo").frames(8))
    assert seen[0][0][0].text == session.backbone.template_parts.after
    assert "assistant" in session.backbone.template_parts.after


# -- the choice and the prototypes -------------------------------------------------------------------------


@unit
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("merge", ["weighted", "mean", "none"])
@pytest.mark.parametrize(("place", "lifetime"), [("last", "ordinary"), ("middle", "first")])
def test_the_best_tokens_and_a_prototype_of_each_new_frame_stay(axes, per_head, merge, place, lifetime):
    policy = StreamMem(
        budget=20, delta=1, merge=merge, place=place, lifetime=lifetime, per_head=per_head, proxy="?"
    )
    rotary = toy_rotary(axes)
    turn = rotary.frequencies.tolist(), rotary.axis.tolist()
    merged_to, prototypes = -1, 0
    for _, layers, told in steps(policy, (3, 2, 4, 1, 3), axes=axes):
        new = sorted({f for f in layers[0].before[0].frame.tolist() if f > merged_to})
        for step in layers:
            if step.update is None:
                continue
            guidance = next(g for layer, g in told.said if layer == step.index)
            assert guidance == Guidance("?", per_head=per_head, among="video")
            for head in range(HEADS):
                mass = told.said[step.index, guidance][0, head if per_head else 0].tolist()
                table = step.before[head]
                kinds, frames = table.kind.tolist(), table.frame.tolist()
                score = {t: mass[t - PREFIX] for t in range(PREFIX, len(table))}
                members = {
                    f: [t for t in score if frames[t] == f and kinds[t] == TokenKind.VISUAL] for f in new
                }
                at = (
                    {}
                    if merge == "none"
                    else {f: own[-1 if place == "last" else 2] for f, own in members.items()}
                )
                for t in score:
                    if lifetime == "first" and kinds[t] == TokenKind.SUMMARY:
                        score[t] += 10
                    if t in at.values():
                        score[t] += 100
                kept = sorted(sorted(score, key=score.__getitem__, reverse=True)[:20])
                now, row = step.after[head], min(head, step.now.rows - 1)
                assert len(now) == PREFIX + 20
                old_row = min(head, step.positions.shape[1] - 1)
                for slot, t in enumerate(kept, PREFIX):
                    assert torch.equal(step.now.positions[:, 0, row, slot], step.positions[:, old_row, t])
                    if t not in at.values():
                        assert int(now.id[slot]) == int(table.id[t])
                        continue
                    own = members[frames[t]]
                    weights = (
                        [score[u] - (100 if u == t else 0) for u in own] if merge == "weighted" else [1.0] * 6
                    )
                    key, value = torch.zeros(8).double(), torch.zeros(8).double()
                    for u, weight in zip(own, weights, strict=True):
                        shift = (step.positions[:, old_row, t] - step.positions[:, old_row, u])[:, None]
                        key += weight / sum(weights) * rope(step.keys[head, u][None], shift, *turn)[0]
                        value += weight / sum(weights) * step.values[head, u].double()
                    close("one_shot", step.now.keys[0, head, slot], key)
                    close("one_shot", step.now.values[0, head, slot], value)
                    assert (int(now.kind[slot]), int(now.weight[slot])) == (TokenKind.SUMMARY, 6)
                    assert int(now.frame[slot]) == frames[t]
                    prototypes += 1
        if layers[0].update is not None and merge != "none":
            merged_to = max(new)
    assert prototypes == (0 if merge == "none" else 12 * 3 * HEADS + 3 * HEADS)


@unit
def test_prototypes_take_at_most_half_of_the_budget():
    for _, layers, _ in steps(StreamMem(budget=7, delta=1), (6, 5)):
        for step in layers:
            made = step.after[0].kind.eq(int(TokenKind.SUMMARY))
            assert len(step.after[0]) == PREFIX + 7
            newest = sorted(set(step.before[0].frame.tolist()))[-3:]
            assert step.after[0].frame[made][-3:].tolist() == newest
