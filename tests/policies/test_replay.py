"""Replay and KVzip: a chunk read a second time, against loops and against the stock decoder's attention."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from hermes.attention import AttentionProbe, SecondReading, attention_set
from hermes.decoding import recording
from hermes.errors import InputError, SettingError
from hermes.memory import MemoryConfig
from hermes.parts import Blend, Recency, Replay, TopK
from hermes.policies.archived import Archived
from hermes.policies.hermes import Hermes
from hermes.policies.kvzip import KVzip, Reconstruction
from hermes.policies.replay import ReplayPolicy
from hermes.policies.snapkv import SnapKV
from hermes.policy import Tier, hierarchy
from hermes.session.lockstep import BatchedSession
from hermes.session.session import StreamSession
from hermes.testing import Trial
from hermes.tokens import VideoState
from tests.support.contract import keep_the_contract
from tests.support.references import tiny
from tests.support.rivals import HEADS, PREFIX, again_rows, best, steps
from tests.support.tolerances import close

unit, model = pytest.mark.unit, pytest.mark.model


def column(rows: list[list[float]], t: int, pool: str) -> float:
    return max(row[t] for row in rows) if pool == "max" else sum(row[t] for row in rows) / len(rows)


@unit
@pytest.mark.parametrize("rank", ["layer", "kv_head", "all"])
@pytest.mark.parametrize(
    ("scorer", "recent"),
    [
        (Replay(), 0),
        (Replay(pool="mean"), 4),
        (Replay(later=False), 3),
        (Replay(always=False, stride=4), 0),
    ],
    ids=["max", "mean", "own", "evicting"],
)
def test_a_token_is_worth_the_largest_attention_of_any_second_reading(rank, scorer, recent):
    policy = ReplayPolicy(
        budget=15, tiers={"all": Tier(1.0, scorer)}, selector=TopK(rank=rank, recent=recent)
    )
    worth: dict[tuple[int, int, int], float] = {}
    evicted = False
    for _, layers, told in steps(policy, (2, 3, 1, 4, 2)):
        fresh, score = told.newest.id.tolist(), {}
        for step in layers:
            assert bool(told.again) == (scorer.always or len(step.before[0].id) - PREFIX > 15)
            heads = []
            for head in range(HEADS):
                ids = step.before[head].id.tolist()
                rows = again_rows(step, told, head, list(range(len(ids)))) if told.again else []
                heads.append({token: column(rows, t, scorer.pool) for t, token in enumerate(ids) if rows})
            for head in range(HEADS if rank == "kv_head" else 1):
                ids = step.before[head].id.tolist()[PREFIX:]
                for token in ids:
                    if rank == "kv_head":
                        now = heads[head].get(token, 0.0)
                    else:
                        each = [one.get(token, 0.0) for one in heads]
                        now = max(each) if scorer.pool == "max" else sum(each) / len(each)
                    if scorer.later or token in fresh:
                        before = worth.get((step.index, head, token), 0.0)
                        worth[step.index, head, token] = max(before, now)
                each = {token: worth.get((step.index, head, token), 0.0) for token in ids}
                mean = sum(each.values()) / len(each) or 1.0
                score[step.index, head] = {token: value / mean for token, value in each.items()}
        for step in layers:
            for head in range(HEADS):
                own = score[step.index, head if rank == "kv_head" else 0]
                if rank == "all":
                    own = {token: sum(score[i, 0][token] for i in range(3)) for token in own}
                own = own | dict.fromkeys(list(own)[len(own) - recent :], float("inf"))
                assert step.kept(head) == best(own, 15)
                evicted |= len(own) > 15
    assert evicted


@unit
def test_kvzip_scores_a_token_once_by_the_repetition_of_its_chunk():
    policy = KVzip(budget=15, tiers={"all": Tier(1.0, Reconstruction(sinks=1))})
    worth: dict[tuple[int, int, int], float] = {}
    for _, layers, told in steps(policy, (2, 3, 1, 4, 2)):
        fresh = set(told.newest.id.tolist())
        for step in layers:
            for head in range(HEADS):
                ids = step.before[head].id.tolist()
                seen = [0] + [t for t, token in enumerate(ids) if t >= PREFIX and token in fresh]
                rows = again_rows(step, told, head, seen)
                for column_, t in enumerate(seen[1:], start=1):
                    worth[step.index, head, ids[t]] = max(row[column_] for row in rows)
                score = {token: worth[step.index, head, token] for token in ids[PREFIX:]}
                assert step.kept(head) == best(score, 15)


def stock_worth(backbone, lead: str, stride: int, sinks: int | None) -> tuple[torch.Tensor, list[int]]:
    """Largest attention ``[L, Hkv, n]`` a chunk's second reading pays it, by the stock decoder."""
    state = VideoState()
    prefix = backbone.prefix(state)
    chunk = backbone.video(Trial("full", backbone).frames(8), state, fps=backbone.fps)
    embeds, places = [prefix.embeds, chunk.embeds], [prefix.positions]
    places.append(prefix.advance + chunk.positions)
    clock = prefix.advance + chunk.advance
    if lead:
        ids = backbone.encode(lead)
        embeds.append(backbone.embed(ids))
        places.append((clock + torch.arange(ids.shape[1]).float()).expand(backbone.axes, -1))
        clock += ids.shape[1]
    embeds.append(chunk.embeds[:, ::stride])
    places.append(clock + chunk.positions[:, ::stride])
    with torch.no_grad(), attention_set(backbone.model, "eager"):
        positions = torch.cat(places, dim=1)
        out = backbone.run(torch.cat(embeds, dim=1), positions, DynamicCache(), output_attentions=True)
    first, count = len(prefix), len(chunk)
    found = []
    for matrix in out.attentions:
        rows = matrix[0, :, first + count :].double()
        if sinks is not None:
            # Only these are in the softmax: shares of the others' sum.
            keep = torch.ones(rows.shape[-1], dtype=torch.bool)
            keep[sinks:first] = False
            rows = rows * keep / (rows * keep).sum(-1, keepdim=True)
        found.append(rows[..., first : first + count].amax(1).unflatten(0, (2, -1)).amax(1))
    return torch.stack(found), chunk.tokens.id.tolist()


@model
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
@pytest.mark.parametrize(
    ("stride", "first", "last", "lead"),
    [(1, 0.0, 1.0, ""), (3, 0.0, 1.0, ""), (1, 0.3, 0.7, ""), (1, 0.0, 1.0, "\nOnce more:\n")],
)
def test_replay_is_what_the_stock_decoder_looks_back_at(family, stride, first, last, lead):
    backbone = tiny(family)
    scorer = Replay(stride=stride, lead=lead)
    policy = ReplayPolicy(
        budget=30, first=first, last=last, tiers={"all": Tier(1.0, scorer)}, selector=TopK(rank="all")
    )
    session = StreamSession(backbone, policy, chunk_frames=8)
    session.feed(Trial("full", backbone).frames(8))
    worth, ids = stock_worth(backbone, lead, stride, None)
    count = len(worth)
    chosen = range(int(first * count), round(last * count))
    each = worth.amax(1)
    total = sum(each[index] / each[index].mean() for index in chosen)
    expected = sorted(ids[i] for i in total.topk(30).indices.tolist())
    for layer in session.memory:
        assert layer.video.id[0, 0].tolist() == expected
    assert session.policy.ledger.scorers.keys() == set(chosen)


@model
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_kvzip_is_what_the_stock_decoder_repeats_from(family):
    backbone = tiny(family)
    session = StreamSession(backbone, KVzip(budget=30), chunk_frames=8)
    session.feed(Trial("full", backbone).frames(8))
    lead = Reconstruction().prompt + backbone.template_parts.after
    worth, ids = stock_worth(backbone, lead, 1, 4)
    for layer in session.memory:
        for head in range(2):
            expected = sorted(ids[i] for i in worth[layer.index, head].topk(30).indices.tolist())
            assert layer.video.id[0, head].tolist() == expected


# -- in a stream -------------------------------------------------------------------------------------------


@model
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_variants_keep_the_contract(family):
    tiers = hierarchy(
        long_term=Replay(), working=Blend(Replay(stride=2), Recency(), weight=0.5, weight_drop=0.2)
    )
    keep_the_contract(Hermes(tiers=tiers), tiny(family))


@model
def test_the_first_reading_is_left_alone():
    session = StreamSession(tiny("llava_onevision"), ReplayPolicy(budget=40), chunk_frames=4)
    assert session.policy.watch() is None
    assert session.policy.reads_again
    assert not SnapKV().reads_again
    assert Archived(inner=ReplayPolicy()).reads_again
    assert not Archived().reads_again


class Fails(AttentionProbe):
    def observe(self, view):
        raise RuntimeError("on purpose")


@model
def test_a_second_reading_leaves_no_trace():
    backbone, frames = tiny("qwen2_5_vl"), Trial("full").frames(4)
    session = StreamSession(backbone, Hermes(budget=500), chunk_frames=4)
    session.feed(frames)
    before = [x.clone() for x in session.memory.state()]
    observer = session.observer
    assert observer.chunk is None
    observer.read_again(SecondReading(), Fails())  # no chunk: nothing is read
    (observer.chunk,) = Trial("full", backbone).chunks(1, seed=2)
    with pytest.raises(RuntimeError, match="on purpose"):
        observer.read_again(SecondReading(lead="Again:", tail=True), Fails())
    after = session.memory.state()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any(layer.pending for layer in session.memory)


@model
def test_worth_goes_on_in_a_saved_stream_and_after_a_failed_step(tmp_path):
    backbone, frames = tiny("llava_onevision"), Trial("full").frames(16)
    whole, first, second, broken = (
        StreamSession(backbone, ReplayPolicy(budget=50), chunk_frames=4) for _ in range(4)
    )
    whole.feed(frames)
    first.feed(frames[:8])
    first.save(tmp_path)
    second.resume(tmp_path)
    second.feed(frames[8:])
    assert all(torch.equal(a, b) for a, b in zip(whole.memory.state(), second.memory.state(), strict=True))
    broken.feed(frames[:8])
    known = {index: tensor.clone() for index, tensor in broken.policy.ledger.held.items()}
    vars(broken.policy)["compress"] = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        broken.feed(frames[8:12])
    del vars(broken.policy)["compress"]
    assert broken.observer.chunk is None
    layer = broken.memory[0]
    padded = broken.policy.ledger.of(layer)[0, 0]
    assert torch.equal(padded[:50], known[0][0, 0, layer.prefix :])
    assert not padded[50:].any()
    broken.feed(frames[12:])
    assert broken.memory[0].video_length == 50


@model
def test_compiled_prefills_replay_and_the_second_reading_is_not_recorded(monkeypatch, caplog):
    monkeypatch.setattr(recording, "compiled", lambda graph: graph)
    sessions = [
        StreamSession(
            tiny("llava_onevision"),
            ReplayPolicy(budget=50),
            chunk_frames=4,
            memory=MemoryConfig(execution=execution),
        )
        for execution in ("eager", "compile")
    ]
    for session in sessions:
        session.feed(Trial("full").frames(24))
    for one, other in zip(*(session.memory for session in sessions), strict=True):
        assert torch.equal(one.origin.table, other.origin.table)
        close("recorded", one.keys, other.keys)
    assert "the policy has each chunk read a second time" in caplog.text
    assert "prefill of a chunk runs eagerly" not in caplog.text


@model
def test_streams_in_lockstep_that_were_asked_different_things_are_refused():
    frames = Trial("full").frames(8)
    session = BatchedSession(tiny("llava_onevision"), ReplayPolicy(budget=60), 2, chunk_frames=4)
    session.feed([frames[:4], frames[:4]])
    session.ask("What?", max_new_tokens=1, stream=0)
    with pytest.raises(InputError, match="same questions"):
        session.feed([frames[4:], frames[4:]])


@unit
def test_settings_that_cannot_be_are_refused():
    with pytest.raises(SettingError, match="last"):
        ReplayPolicy(first=0.5, last=0.5)
    with pytest.raises(SettingError, match=r"selector.rank: got 'layer'; allowed: all"):
        ReplayPolicy(last=0.5, selector=TopK())
    with pytest.raises(SettingError, match="second: got 'Replay'"):
        Blend(Replay(), Replay())
