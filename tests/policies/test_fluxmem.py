"""FluxMem against loops: Otsu's threshold, thinning in time, merging in space, and the tiers of a stream."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hermes.policies.fluxmem import FluxMem
from hermes.policy import merged, otsu, thinned
from hermes.session.session import StreamSession
from hermes.tokens import Chunk, Provenance, VideoState, split_frames
from tests.support.references import FAMILIES, tiny
from tests.support.rivals import scenes
from tests.support.tolerances import close

unit, model = pytest.mark.unit, pytest.mark.model


def slow_otsu(values: list[float]) -> float:
    width = 2 / 128
    bins = [min(int(min(max(v, 0.0), 2.0) / width), 127) for v in values]
    best, threshold = 0.0, None
    for cut in range(127):
        low = [(b + 0.5) * width for b in bins if b <= cut]
        high = [(b + 0.5) * width for b in bins if b > cut]
        if low and high:
            apart = (sum(low) / len(low) - sum(high) / len(high)) ** 2 * len(low) * len(high)
            if apart > best * (1 + 1e-9):
                best, threshold = apart, (cut + 1) * width
    return sorted(values)[(len(values) - 1) // 2] if threshold is None else threshold


@unit
@pytest.mark.parametrize("seed", range(5))
def test_otsu(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.cat((torch.rand(9, generator=generator) * 0.4, torch.rand(5, generator=generator) + 0.9))
    assert otsu(values) == pytest.approx(slow_otsu(values.tolist()))
    flat = torch.full((4,), 0.7)
    assert otsu(flat) == pytest.approx(0.7)


def random_frame(seed: int, rows: int = 4, cols: int = 5, like: Chunk | None = None) -> Chunk:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, rows * cols, 6, generator=generator)
    if like is not None:
        same = torch.rand(1, rows * cols, 1, generator=generator) < 0.6
        x = torch.where(same, like.embeds + 0.2 * x, x)
    tokens = Provenance.visual(first_id=seed * 100, frame=seed, time=float(seed), rows=rows, cols=cols)
    return Chunk(x, torch.arange(float(rows * cols))[None], rows * cols, tokens, 1)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


def places(piece: Chunk) -> list[tuple[int, int]]:
    return list(zip(piece.tokens.row.tolist(), piece.tokens.col.tolist(), strict=True))


def slow_thinned(piece: Chunk, before: Chunk | None, after: Chunk, alike: float) -> list[int]:
    keep, likeness = set(), {}
    for other in (before, after):
        if other is None:
            continue
        distances = {}
        for i, (row, col) in enumerate(places(piece)):
            if row < 0:
                continue
            near = [j for j, (r, c) in enumerate(places(other)) if abs(r - row) <= 1 and abs(c - col) <= 1]
            likeness[i] = max(
                cosine(piece.embeds[0, i], other.embeds[0, j]) for j in near if places(other)[j][0] >= 0
            )
            distances[i] = 1 - likeness[i]
        threshold = slow_otsu(list(distances.values()))
        keep |= {i for i, d in distances.items() if d >= threshold}
    keep = {i for i in keep if likeness[i] <= alike}
    keep |= {i for i, (row, _) in enumerate(places(piece)) if row < 0}
    return [int(piece.tokens.id[i]) for i in sorted(keep)]


@unit
@pytest.mark.parametrize("alike", [0.8, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_frames_are_thinned_as_by_loops(seed, alike):
    before = random_frame(3 * seed)
    piece = random_frame(3 * seed + 1, like=before)
    after = random_frame(3 * seed + 2, like=piece)
    for earlier in (before, None):
        ours = thinned(piece, earlier, after, alike)
        assert ours.tokens.id.tolist() == slow_thinned(piece, earlier, after, alike)
        assert torch.equal(ours.embeds[0], piece.embeds[0, ours.tokens.id - piece.tokens.id[0]])
        assert 0 < len(ours) < len(piece) or alike == 0.3


def slow_merged(piece: Chunk) -> dict[int, tuple[torch.Tensor, int]]:
    """By the id of the token it takes the place of: each group's mean and size."""
    at = places(piece)
    pairs = [
        (i, j)
        for i in range(len(at))
        for j in range(i + 1, len(at))
        if at[i][0] >= 0 and max(abs(at[i][0] - at[j][0]), abs(at[i][1] - at[j][1])) <= 1
    ]
    distance = {(i, j): 1 - cosine(piece.embeds[0, i], piece.embeds[0, j]) for i, j in pairs}
    threshold = slow_otsu(list(distance.values()))
    parent = list(range(len(at)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for (i, j), d in distance.items():
        if d <= threshold:
            parent[root(i)] = root(j)
    out = {}
    for name in {root(i) for i in range(len(at))}:
        members = [i for i in range(len(at)) if root(i) == name]
        mean = sum(piece.embeds[0, i] for i in members) / len(members)
        far = [float((piece.embeds[0, i] - mean).norm()) for i in members]
        # Two are equally near to their mean: the first.
        place = next(i for i, d in zip(members, far, strict=True) if d <= min(far) * 1.0001)
        out[int(piece.tokens.id[place])] = (mean, len(members))
    return out


@unit
@pytest.mark.parametrize("seed", range(4))
def test_neighbours_are_merged_as_by_loops(seed):
    piece = random_frame(seed)
    one_side = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(seed))
    blocks = torch.cat((one_side, -one_side), dim=1)
    half = (piece.tokens.col >= 2).long()
    piece = replace(piece, embeds=blocks[:, half] + 0.3 * piece.embeds)
    for one in (piece, piece.select(torch.tensor([0, 1, 4, 7, 8, 9, 13, 17, 19]))):
        ours, expected = merged(one), slow_merged(one)
        assert ours.tokens.id.tolist() == sorted(expected)
        assert 1 < len(ours) < len(one)
        for at, name in enumerate(ours.tokens.id.tolist()):
            close("mix", ours.embeds[0, at], expected[name][0])
            assert int(ours.tokens.weight[at]) == expected[name][1]
            assert ours.positions[0, at] == one.positions[0, one.tokens.id.tolist().index(name)]


@model
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stream_moves_frames_through_the_tiers(family):
    backbone, state = tiny(family), VideoState()
    backbone.prefix(state)
    frames, group = scenes([6, 5, 9]), backbone.frames_per_group
    whole, clock = [], 0
    for at in range(0, 20, 4):
        chunk = backbone.video(frames[at : at + 4], state, fps=backbone.fps)
        whole += split_frames(chunk, clock)
        clock += chunk.advance
    session = StreamSession(backbone, FluxMem(short=4, middle=6), chunk_frames=4)
    session.feed(frames)
    pieces = session.policy.pieces
    short, middle = 4 // group, 6 // group
    assert len(pieces) == len(whole) == 20 // group
    for number, piece in enumerate(pieces):
        expected = whole[number]
        if number < len(whole) - short:
            kept = slow_thinned(expected, whole[number - 1] if number else None, whole[number + 1], 0.8)
            rows = [i for i in range(len(expected)) if int(expected.tokens.id[i]) in kept]
            expected = expected.select(torch.tensor(rows, dtype=torch.int64))
        if number < len(whole) - short - middle:
            visual = (expected.tokens.row >= 0).nonzero().flatten()
            if len(visual) > 1:
                groups = slow_merged(expected.select(visual))
                text = expected.tokens.id[expected.tokens.row < 0].tolist()
                assert piece.tokens.id.tolist() == sorted([*groups, *text])
                continue
        assert piece.tokens.id.tolist() == expected.tokens.id.tolist()
        assert torch.equal(piece.embeds, expected.embeds)
        assert torch.equal(piece.positions, expected.positions)
    assert session.memory.lengths[0] == session.memory.prefix
    assert sum(map(len, pieces)) < sum(map(len, whole))


@model
@pytest.mark.parametrize("dense", [False, True])
def test_the_answer_reads_all_tiers_and_a_saved_stream_goes_on(dense, tmp_path):
    def stream() -> StreamSession:
        return StreamSession(tiny("qwen3_vl"), FluxMem(short=4, middle=6, dense=dense), chunk_frames=4)

    whole, again, frames, forks = stream(), stream(), scenes([6, 5, 9]), []
    whole.feed(frames[:12])
    whole.save(tmp_path)
    again.resume(tmp_path)
    for session in (whole, again):
        session.feed(frames[12:])
        inner = session.policy.recall
        vars(session.policy)["recall"] = lambda call, inner=inner: (
            inner(call),
            forks.append(call.memory.fork()),
        )
    one, other = (session.ask("Which?", max_new_tokens=3) for session in (whole, again))
    assert one.ids.tolist() == other.ids.tolist()
    assert one.memory_bytes == other.memory_bytes > whole.memory.memory_bytes
    pieces = whole.policy.pieces
    ids = [name for piece in pieces for name in piece.tokens.id.tolist()]
    layer = forks[0][5]
    assert layer.video.id[0, 0].tolist() == ids
    assert torch.equal(forks[0][5].keys, forks[1][5].keys)
    places = torch.cat([piece.positions for piece in pieces], dim=1)
    for axis in range(3):
        here = layer.positions[axis, 0, 0, layer.prefix :] - whole.memory.prefix
        wanted = places[axis].tolist()
        order = sorted(set(wanted))
        assert here.tolist() == ([order.index(x) for x in wanted] if dense else wanted)
