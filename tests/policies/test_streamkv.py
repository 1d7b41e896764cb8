"""StreamKV against loops: segments and their summaries, what is archived of them, and what is read."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from hermes.policies.streamkv import StreamKv
from hermes.policy import segmented
from hermes.session.session import StreamSession
from hermes.tokens import VideoState
from tests.support.asking import gone_on, holds_exactly, stream_and_ask
from tests.support.references import FAMILIES, tiny
from tests.support.rivals import scenes
from tests.support.tolerances import close

pytestmark = pytest.mark.model


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("least", "most", "room"), [(2, 9, 999), (1, 3, 999), (2, 9, 30)])
def test_segments_end_where_frames_differ(family, least, most, room):
    """All chunks together against one loop over whole frames."""
    backbone, state = tiny(family), VideoState()
    backbone.prefix(state)
    frames = scenes([6, 4, 2, 8, 4])
    chunks = [backbone.video(frames[at : at + 4], state, fps=backbone.fps) for at in range(0, 24, 4)]
    means, firsts, sizes = [], [], []
    for chunk in chunks:
        for number in chunk.tokens.frame.unique().tolist():
            mine = [i for i in range(len(chunk)) if int(chunk.tokens.frame[i]) == number]
            visual = [i for i in mine if int(chunk.tokens.row[i]) >= 0]
            means.append(sum(chunk.embeds[0, i] for i in visual) / len(visual))
            firsts.append(int(chunk.tokens.id[mine[0]]))
            sizes.append(len(visual))
    alike = sorted(cosine(a, b) for a, b in pairwise(means))[len(means) // 3 :][:2]
    boundary = sum(alike) / 2
    start, expected = 0, []
    for i in range(1, len(means)):
        length = i - start
        if length >= min(most, max(room // sizes[i], 1)) or (
            length >= least and cosine(means[i - 1], means[i]) < boundary
        ):
            expected.append((firsts[i], sum(means[start:i]) / length, length * sizes[i]))
            start = i
    assert len(expected) > 1
    found, ends, segment = [], [], None
    for chunk in chunks:
        out, segment, more = segmented(chunk, segment, boundary, least, most, room, -1000 - len(ends))
        ends += more
        summaries = (out.tokens.id <= -1000).nonzero().flatten().tolist()
        assert len(out) == len(chunk) + len(summaries)
        assert out.advance >= chunk.advance + len(summaries) * (backbone.axes == 1)
        assert int(out.positions.max()) < out.advance
        for at in summaries:
            found.append((int(out.tokens.id[at + 1]), out.embeds[0, at], int(out.tokens.weight[at])))
            assert float(out.positions[:, at].min()) > float(out.positions[:, :at].max() if at else -1)
            assert float(out.positions[:, at].max()) < float(out.positions[:, at + 1 :].min())
        rest = [i for i in range(len(out)) if i not in summaries]
        assert torch.equal(out.embeds[:, rest], chunk.embeds)
        # Every token is where it was within its segment.
        ours, before = out.positions[:, rest], chunk.positions
        cuts = [0, *[at - n for n, at in enumerate(summaries)], len(chunk)]
        for a, b in pairwise(cuts):
            if b > a:
                shift = ours[:, a:b] - before[:, a:b]
                assert float((shift - shift[:, :1]).abs().max()) == 0
    assert ends == [first - 1 for first, _, _ in expected]
    for (first, embed, mass), (at, mean, count) in zip(found, expected, strict=True):
        assert (first, mass) == (at, count)
        close("mix", embed, mean)
    assert len(segment) == len(means) - start


def slow_choice(scores: list[list[float]], count: int) -> list[list[int]]:
    shares = []
    for one in scores:
        total = sum(math.exp(x) for x in one)
        shares.append([math.exp(x) / total for x in one])
    flat = sorted(share for one in shares for share in one)
    threshold = flat[len(flat) - count]
    return [[i for i, share in enumerate(one) if share >= threshold] for one in shares]


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_layers_keep_and_read_frames_by_one_threshold(family):
    """The first segment's archive and the answer, from projections; segments are cut by ``most`` alone."""
    seen = []
    inner = StreamKv.archive

    class Watched(StreamKv):
        def archive(self, memory, updates, observe):
            if self.ends:
                seen.append([layer.take(torch.arange(layer.length)[None, None]) for layer in memory])
                seen.append(observe.queries(self.prompts.render("global")))
            inner(self, memory, updates, observe)

    policy = Watched(90, boundary=-1.0, most=4, compression=0.5, blocks=2, question_over="prefix")
    asked = stream_and_ask(policy, family, chunks=9)
    session = asked.session
    pair, prefix = session.backbone.frames_per_group, session.memory.prefix
    ids = sorted(name for name in asked.keys[0] if name >= prefix)
    frames = [ids[at : at + 9] for at in range(0, len(ids), 9)]
    assert len(frames) == 36 // pair
    ended = (len(frames) - 1) // 4

    def mean_key(layer: int, names: list[int]) -> torch.Tensor:
        return sum(asked.keys[layer][name] for name in names) / len(names)

    def score(queries: torch.Tensor, key: torch.Tensor) -> float:
        query = torch.stack([queries[2 * head : 2 * head + 2].mean((0, 1)) for head in range(2)])
        return cosine(query.flatten(), key.flatten())

    # What is archived: half of every segment's frames, shared out over the layers.
    archive, kept = session.policy.archived, [[] for _ in range(10)]
    assert len(seen) == 2 * ended
    for segment in range(ended):
        mine = frames[4 * segment : 4 * segment + 4]
        queries = seen[2 * segment + 1]
        scores = [[score(queries[at][0], mean_key(at, names)) for names in mine] for at in range(10)]
        for at, chosen in enumerate(slow_choice(scores, 20)):
            kept[at] += [mine[i] for i in chosen]
    for at in range(10):
        assert archive.newest[at] == [names[-1] for names in kept[at]]
    assert len({len(one) for one in kept}) > 1
    # What is read: two archived frames a layer on average, all summaries, and the segment still open.
    scores = [[score(asked.queries[at], mean_key(at, names)) for names in kept[at]] for at in range(10)]
    chosen, rest = slow_choice(scores, 20), [name for names in frames[4 * ended :] for name in names]
    summaries = sorted((name for name in asked.keys[0] if name < 0), reverse=True)
    assert len(summaries) == ended
    for at in range(10):
        order = {name: 9 * 4 * (number + 1) + prefix - 0.5 for number, name in enumerate(summaries)}
        pieces = [[name] for name in summaries] + [kept[at][i] for i in chosen[at]]
        pieces.sort(key=lambda piece: order.get(piece[0], piece[0]))
        assert asked.ids(at) == [name for piece in pieces for name in piece] + rest
    holds_exactly(asked)


def test_summaries_stay_and_the_window_does_not_grow_otherwise():
    session = StreamSession(
        tiny("llava_onevision"), StreamKv(budget=90, boundary=-1.0, most=4), chunk_frames=4
    )
    for frame in scenes([5] * 9):
        session.feed([frame])
    held = session.memory[4].video.id[0, 0]
    assert int((held < 0).sum()) == 10
    assert int((held >= 0).sum()) == 90
    without = StreamSession(tiny("llava_onevision"), StreamKv(budget=90, summaries=False), chunk_frames=4)
    without.feed(scenes([5] * 9))
    assert int(without.memory[4].video.id.min()) >= 0


def test_a_saved_stream_goes_on_in_its_segment(tmp_path):
    sessions, (one, other) = gone_on(
        lambda: StreamKv(budget=90, most=5), scenes([6, 3, 9, 6]), tmp_path, "llava_onevision"
    )
    assert torch.equal(sessions[0].memory[4].keys, sessions[1].memory[4].keys)
    assert one.archived_bytes == other.archived_bytes > 0
