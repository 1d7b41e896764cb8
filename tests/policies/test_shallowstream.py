"""ShallowStream against the stock decoder's attention and loops over votes, units and distances."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from hermes.attention import attention_set
from hermes.memory import KVMemory, first_layers, load_packed, packed
from hermes.policies.full import Full
from hermes.policies.shallowstream import ShallowStream
from hermes.session.session import StreamSession
from hermes.testing import Trial
from hermes.tokens import VideoState, split_frames
from tests.support.asking import QUESTION, stream_and_ask
from tests.support.families import make_frames
from tests.support.references import tiny
from tests.support.tiny_qwen3_5 import tiny_hybrid
from tests.support.tiny_windowed import tiny_windowed

pytestmark = pytest.mark.model


def stock_attention(backbone, chunks: int):
    """Attention of the question to the video ``[L, V]``, mean over heads and rows, and the stream's units."""
    state, frames = VideoState(), Trial("full", backbone).frames(4 * chunks)
    prefix = backbone.prefix(state)
    embeds, places, clock, units = [prefix.embeds], [prefix.positions], prefix.advance, []
    for at in range(0, len(frames), 4):
        chunk = backbone.video(frames[at : at + 4], state, fps=backbone.fps)
        units += split_frames(chunk)
        embeds.append(chunk.embeds)
        places.append(clock + chunk.positions)
        clock += chunk.advance
    ids = backbone.encode_plain(QUESTION)
    embeds.append(backbone.embed(ids))
    places.append((clock + torch.arange(ids.shape[1]).float()).expand(backbone.axes, -1))
    with torch.no_grad(), attention_set(backbone.model, "eager"):
        out = backbone.run(torch.cat(embeds, 1), torch.cat(places, 1), DynamicCache(), output_attentions=True)
    rows = [each[0, :, -ids.shape[1] :, len(prefix) : -ids.shape[1]].double() for each in out.attentions]
    return torch.stack([each.mean((0, 1)) for each in rows]), units


def slow_choice(mass, units, layers, *, recent, alone, votes, pool, count, gate, budget) -> list[int]:
    owner = [number for number, unit in enumerate(units) for _ in range(len(unit))]
    past = max(len(units) - recent, 0)
    tally, shares = [0] * len(units), []
    for layer in range(layers):
        values = mass[layer].tolist()
        old = [t for t in range(len(values)) if owner[t] < past]
        for t in sorted(old, key=lambda t: -values[t])[:votes]:
            tally[owner[t]] += 1
        shares.append(sum(values[t] for t in old) / sum(values))
    chosen: list[int] = []
    if past and sum(shares) / len(shares) < gate:
        past = max(len(units) - alone, 0)
    elif past:
        voted = [u for u in sorted(range(past), key=lambda u: -tally[u])[:pool] if tally[u]]
        means = {u: units[u].embeds[0].double().mean(0) for u in voted}

        def far(a: int, b: int) -> float:
            return 1 - float(means[a] @ means[b] / (means[a].norm() * means[b].norm()))

        chosen = [voted[0]]
        while len(chosen) < min(count, len(voted)):
            rest = [u for u in voted if u not in chosen]
            chosen.append(max(rest, key=lambda u: min(far(u, c) for c in chosen)))
    read: set[int] = set()
    room = budget
    groups = [[u] for u in reversed(range(past, len(units)))] + [[u - 1, u] if u else [u] for u in chosen]
    for group in groups:
        cost = sum(len(units[u]) for u in group if u not in read)
        if cost <= room:
            read |= set(group)
            room -= cost
    return sorted(read)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
@pytest.mark.parametrize(
    ("depth", "votes", "pool", "count", "gate", "budget"),
    [
        (0.14, 64, 32, 2, 0.0, 1000),
        (0.5, 9, 5, 3, 0.0, 90),
        (1.0, 5, 4, 8, 0.1, 60),
        (0.3, 5, 4, 2, 1.0, 1000),
    ],
)
def test_what_answers_is_what_the_shallow_layers_vote_for(family, depth, votes, pool, count, gate, budget):
    backbone = tiny(family)
    mass, units = stock_attention(backbone, 5)
    settings = {"depth": depth, "votes": votes, "pool": pool, "units": count, "gate": gate, "budget": budget}
    asked = stream_and_ask(ShallowStream(recent=4, alone=1, **settings), family)
    layers = max(round(depth * len(mass)), 1)
    read = slow_choice(
        mass, units, layers, recent=4, alone=1, votes=votes, pool=pool, count=count, gate=gate, budget=budget
    )
    ids = [name for u in read for name in units[u].tokens.id.tolist()]
    for layer in asked.fork:
        assert layer.video.id[0, 0].tolist() == ids
    assert len(ids) <= budget
    if family == "llava_onevision":
        assert asked.fork[0].positions.flatten().tolist() == list(range(asked.fork[0].length))
    shallow = asked.session.policy.shallow(asked.session.memory)
    assert len(shallow) == layers


@pytest.mark.parametrize("family", ["llava_onevision", "qwen3_vl"])
def test_shallow_layers_hold_what_they_would_in_the_whole_decoder(family):
    frames = Trial("full", tiny(family)).frames(12)
    sessions = [
        StreamSession(tiny(family), policy, chunk_frames=4) for policy in (ShallowStream(depth=0.5), Full())
    ]
    runs: list[int] = []
    last = tiny(family).decoder.layers[-1].register_forward_pre_hook(lambda *_: runs.append(1))
    sessions[0].feed(frames)
    last.remove()
    assert len(runs) == 1  # the prefix alone
    sessions[1].feed(frames)
    shallow, whole = sessions[0].policy.shallow(sessions[0].memory), sessions[1].memory
    assert 0 < len(shallow) < len(whole)
    assert shallow.next_position == whole.next_position
    for one, other in zip(shallow, whole, strict=False):
        assert torch.equal(one.origin.table, other.origin.table)
        torch.testing.assert_close(one.keys, other.keys, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.values, other.values, rtol=1e-4, atol=1e-5)
    assert set(sessions[0].memory.lengths) == {sessions[0].memory.prefix}


@pytest.mark.parametrize("kind", ["states", "windows", "qwen3_vl"])
def test_a_saved_stream_goes_on_on_any_decoder(kind, tmp_path):
    backbone = {"states": tiny_hybrid, "windows": tiny_windowed}.get(kind, lambda: tiny("qwen3_vl"))()
    frames = make_frames(24)
    policy = {"depth": 0.5, "recent": 2, "units": 2}
    sessions = [StreamSession(backbone, ShallowStream(**policy), chunk_frames=4) for _ in range(2)]
    sessions[0].feed(frames[:12])
    sessions[0].save(tmp_path)
    sessions[1].resume(tmp_path)
    assert sessions[0].stats().memory_bytes == sessions[1].stats().memory_bytes
    asked = [session.ask("Which?", max_new_tokens=2) for session in sessions]
    for session in sessions:
        session.feed(frames[12:])
    asked += [session.ask("Which?", max_new_tokens=2) for session in sessions]
    assert asked[0].ids.tolist() == asked[1].ids.tolist()
    assert asked[2].ids.tolist() == asked[3].ids.tolist()
    one, other = (session.policy.shallow(session.memory) for session in sessions)
    assert all(torch.equal(a, b) for a, b in zip(one.state(), other.state(), strict=True))


def test_first_layers_are_packed_and_come_back():
    session = StreamSession(tiny_windowed(), Full(), chunk_frames=4)
    session.feed(make_frames(8))
    memory = session.memory
    for count in range(1, len(memory) + 1):
        some = first_layers(memory, count)
        assert isinstance(some, KVMemory)
        assert len(some) == count
        assert some.next_position == memory.next_position
        assert some.layers[-1] is some.managed[-1]
        again = first_layers(session.memory.fork(), count)
        again.reset()
        load_packed(again, packed(some))
        assert all(torch.equal(a, b) for a, b in zip(some.state(), again.state(), strict=True))
        assert (again.prefix, again.next_position) == (some.prefix, some.next_position)
    assert len(memory.layers) > len(first_layers(memory, 1).layers)
