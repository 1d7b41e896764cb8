"""SnapKV, PyramidKV, TOVA and H2O against their rules as loops; following attention in a stream."""

from __future__ import annotations

import pytest
import torch

from hermes.attention import AttentionMass, AttentionProbe, AttentionView, together
from hermes.errors import InputError, SettingError
from hermes.kernels import attention_received
from hermes.memory import LayerUpdate, Mix
from hermes.parts import AttentionLedger, AttentionSum, Blend, Recency, TopK, WindowAttention
from hermes.policies.h2o import H2O
from hermes.policies.hermes import Hermes
from hermes.policies.pyramidkv import PyramidKV
from hermes.policies.snapkv import SnapKV
from hermes.policies.tova import Tova
from hermes.policy import Tier
from hermes.session.session import StreamSession
from hermes.testing import Trial
from tests.support.references import tiny
from tests.support.rivals import GROUPS, HEADS, PREFIX, best, softmax_rows, steps
from tests.support.tolerances import close

unit, model = pytest.mark.unit, pytest.mark.model


@unit
@pytest.mark.parametrize(("queries", "last", "block"), [(5, None, 2), (5, 2, 128), (1, None, 128), (4, 9, 3)])
def test_attention_received_is_the_column_mean(monkeypatch, queries, last, block):
    monkeypatch.setattr("hermes.kernels.mass.QUERIES", block)
    query, keys = torch.randn(2, 4, queries, 8), torch.randn(2, 2, 9, 8)
    ours = attention_received(query, keys, scaling=0.3, last=last, per_head=True)
    for b in range(2):
        for head in range(4):
            if head % 2:
                continue
            total = torch.zeros(9, dtype=torch.float64)
            rows = range(max(queries - (last or queries), 0), queries)
            for one in (head, head + 1):
                for i in rows:
                    seen = 9 - queries + i + 1
                    logits = keys[b, head // 2, :seen].double() @ query[b, one, i].double() * 0.3
                    total[:seen] += logits.softmax(0)
            close("scores", ours[b, head // 2], total / (2 * len(rows)))
    shared = attention_received(query, keys, scaling=0.3, last=last)
    assert shared.shape == (2, 1, 9)
    close("scores", shared[:, 0], ours.mean(1))


def snap_scores(step, head: int, window: int, kernel: int, pool: str) -> dict[int, float]:
    """Pooled attention of the last queries by token id; tokens of the window get infinity."""
    attention, ids = softmax_rows(step, head), step.before[head].id.tolist()
    window = min(window, step.before[head].frame.tolist().count(int(step.before[head].frame[-1])))
    count, total = step.query.shape[1], len(ids)
    rows = range(max(count - window, 0), count)
    mean = [
        sum(attention[g][i][t] for g in range(GROUPS) for i in rows) / (GROUPS * len(rows))
        for t in range(total)
    ]
    old = range(PREFIX, max(total - window, PREFIX))
    scores = {}
    for t in range(PREFIX, total):
        if t not in old:
            scores[ids[t]] = float("inf")
            continue
        around = [mean[u] for u in range(t - kernel // 2, t - kernel // 2 + kernel) if u in old]
        scores[ids[t]] = max(around) if pool == "max" else sum(around) / kernel
    return scores


@unit
@pytest.mark.parametrize(
    ("window", "kernel", "pool"), [(4, 5, "mean"), (7, 3, "max"), (40, 5, "mean"), (3, 1, "mean")]
)
def test_snapkv_keeps_the_window_and_what_it_attends_to(window, kernel, pool):
    scorer = WindowAttention(window, kernel, pool)
    policy = SnapKV(budget=15, tiers={"all": Tier(1.0, scorer)})
    for _, layers, _ in steps(policy):
        for step in layers:
            for head in range(HEADS):
                scores = snap_scores(step, head, window, kernel, pool)
                kept = step.kept(head)
                assert len(kept) == 15
                # Tokens that share a maximum, and those of the window, score alike.
                assert kept == best(scores, 15) or pool == "max"
                worth = [sorted(scores[token] for token in ids) for ids in (kept, best(scores, 15))]
                assert worth[0] == pytest.approx(worth[1], abs=1e-6)


@unit
def test_pyramidkv_has_snapkvs_scores_and_falling_budgets():
    policy = PyramidKV(budget=20, beta=4.0, tiers={"all": Tier(1.0, WindowAttention(window=4))})
    # (20 - 4) / 4 = 4 besides the window in the last layer, 2 * 16 - 4 = 28 in the first, and the mean is 20.
    assert policy.budgets(4) == [32, 24, 16, 8]
    for _, layers, _ in steps(policy, (6, 3, 2), layers=4):
        for step in layers:
            for head in range(HEADS):
                scores = snap_scores(step, head, 4, 5, "mean")
                assert step.kept(head) == best(scores, min([32, 24, 16, 8][step.index], len(scores)))


@unit
@pytest.mark.parametrize("budget", [1, 33, 64, 671, 672, 1000, 4000])
@pytest.mark.parametrize("layers", [1, 3, 28])
def test_pyramidkv_never_holds_more_in_all(budget, layers):
    budgets = PyramidKV(budget=budget).budgets(layers)
    assert sum(budgets) <= budget * layers
    assert sum(budgets) > (budget - 1) * layers
    assert budgets == sorted(budgets, reverse=True)
    assert (len(set(budgets)) == 1) == (layers == 1 or (budget - 32) / 20 < 32)


@unit
def test_tova_keeps_what_the_last_token_attends_to():
    for _, layers, _ in steps(Tova(budget=11)):
        for step in layers:
            ids, score = step.before[0].id.tolist(), {}
            attention = [softmax_rows(step, head) for head in range(HEADS)]
            for t in range(PREFIX, len(ids)):
                score[ids[t]] = sum(rows[g][-1][t] for rows in attention for g in range(GROUPS))
            score[ids[-1]] = float("inf")
            assert step.update is not None
            assert step.update.keep.shape[1] == 1
            assert step.kept(0) == best(score, 11)


@unit
@pytest.mark.parametrize("per_query", [False, True])
def test_h2o_keeps_the_newest_half_and_the_heavy_hitters(per_query):
    policy = H2O(budget=12, tiers={"all": Tier(1.0, AttentionSum(per_query))})
    sums: dict[tuple[int, int, int], list[float]] = {}
    evicted = 0
    for _, layers, _ in steps(policy, (1, 1, 4, 3, 5, 2)):
        for step in layers:
            for head in range(HEADS):
                ids, attention = step.before[head].id.tolist(), softmax_rows(step, head)
                count = step.query.shape[1]
                for t, token in enumerate(ids):
                    held = sums.setdefault((step.index, head, token), [0.0, 0])
                    for i in range(count):
                        if t <= len(ids) - count + i:
                            held[0] += sum(attention[g][i][t] for g in range(GROUPS)) / GROUPS
                            held[1] += 1
                video = ids[PREFIX:]
                score = {
                    token: sums[step.index, head, token][0]
                    / (sums[step.index, head, token][1] if per_query else 1)
                    for token in video
                }
                score |= dict.fromkeys(video[-6:], float("inf"))
                assert step.kept(head) == best(score, 12)
                evicted += len(video) > 12
    assert evicted == 4 * 3 * HEADS


@unit
def test_a_mixed_token_gets_the_sum_of_its_members():
    policy = H2O(budget=100)
    memory, _, _ = next(iter(steps(policy, (2,))))
    layer, known = memory[1], policy.ledger.of(memory[1]).clone()
    assert known.shape == (1, HEADS, 12)
    keep = torch.tensor([[[0, 1, 2, 5, 9]]])
    members, groups = torch.tensor([[[3, 4, 6]]]), torch.tensor([[[0, 1, 1]]])
    weights = torch.tensor([[[1.0, 0.5, 0.5]]])
    appended, onto = (
        LayerUpdate(keep, Mix(members, weights, groups, 2, targets))
        for targets in (None, torch.tensor([[[2, 9]]]))
    )
    old = known[0, 0].tolist()
    policy.ledger.evict(layer, appended)
    close(
        "scores",
        policy.ledger.held[1][0, 0, PREFIX:],
        torch.tensor([old[0], old[3], old[7], old[1], old[2] + old[4]]),
    )
    policy.ledger.held[1] = torch.cat((torch.zeros(1, HEADS, PREFIX), known), dim=-1)
    policy.ledger.evict(layer, onto)
    close("scores", policy.ledger.held[1][0, 0, PREFIX:], torch.tensor([old[1], old[3], old[2] + old[4]]))


# -- in a stream -------------------------------------------------------------------------------------------


class Attention(AttentionProbe):
    """What a session's layers attend to, chunk by chunk, from the attention module's own matrix."""

    def __init__(self):
        self.seen = []

    def layers(self, num_layers):
        return [0, 2]

    def observe(self, view: AttentionView):
        self.seen.append((view.index, view.received()))


@model
def test_a_users_probe_sees_the_same_beside_the_policys():
    found = []
    for policy in (SnapKV(budget=60), H2O(budget=60)):
        session, probe = StreamSession(tiny("llava_onevision"), policy, chunk_frames=4), Attention()
        session.probe = probe
        session.feed(Trial("fifo").frames(4))
        found.append(probe.seen)
    assert [layer for layer, _ in found[0]] == [0, 2]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(*found, strict=True))


@unit
def test_probes_together():
    one, other = AttentionMass(only=[0]), AttentionMass(only=[0, 2])
    assert together(None, None) is None
    assert together(None, one) is one
    both = together(one, other)
    assert set(both.layers(4)) == {0, 2}
    assert set(together(both, AttentionMass(only=[3])).layers(4)) == {0, 2, 3}


@model
def test_policies_that_follow_nothing_watch_nothing():
    session = StreamSession(tiny("llava_onevision"), Hermes(budget=60), chunk_frames=4)
    assert session.policy.watch() is None
    assert StreamSession(tiny("llava_onevision"), SnapKV(budget=60)).policy.watch() is not None


@model
def test_a_failed_chunk_leaves_no_trace_in_the_sums():
    backbone, frames = tiny("llava_onevision"), Trial("fifo").frames(12)
    plain, broken = (StreamSession(backbone, H2O(budget=50), chunk_frames=4) for _ in range(2))
    plain.feed(frames)
    broken.feed(frames[:8])

    def fail(*args):
        raise RuntimeError("on purpose")

    hook = backbone.decoder.layers[3].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError):
        broken.feed(frames[8:])
    hook.remove()
    broken.flush()
    for mine, theirs in zip(broken.memory, plain.memory, strict=True):
        assert torch.equal(mine.origin.id, theirs.origin.id)
        assert torch.equal(broken.policy.ledger.of(mine), plain.policy.ledger.of(theirs))


@model
def test_sums_go_on_in_a_saved_stream(tmp_path):
    backbone, frames = tiny("qwen2_5_vl"), Trial("fifo").frames(16)
    whole, first, second = (StreamSession(backbone, H2O(budget=50), chunk_frames=4) for _ in range(3))
    whole.feed(frames)
    first.feed(frames[:8])
    first.save(tmp_path)
    second.resume(tmp_path)
    second.feed(frames[8:])
    assert all(torch.equal(a, b) for a, b in zip(whole.memory.state(), second.memory.state(), strict=True))


@unit
def test_a_blend_follows_for_one_of_its_scorers():
    with pytest.raises(SettingError, match="second: got 'AttentionSum'"):
        Blend(AttentionSum(), AttentionSum())
    for scorer in (Blend(AttentionSum(), Recency()), Blend(Recency(), AttentionSum())):
        assert scorer.follows
        policy = Hermes(budget=12, tiers={"all": Tier(1.0, scorer)}, selector=TopK(timestamps=0.0))
        for _, layers, _ in steps(policy):
            assert all(len(step.kept(0)) == 12 for step in layers)
    assert not Blend().follows


@unit
def test_what_does_not_fit_the_layer_is_forgotten():
    policy = H2O(budget=100)
    memory, _, _ = next(iter(steps(policy, (2,))))
    following = AttentionLedger(policy.ledger.scorers, True)
    following.restore({"0": torch.ones(1, 1, 3)})
    assert torch.equal(following.of(memory[0]), torch.zeros(1, 1, 12))


@model
def test_streams_in_lockstep_that_were_asked_different_things_are_refused():
    from hermes.session.lockstep import BatchedSession

    frames = Trial("fifo").frames(8)
    session = BatchedSession(tiny("llava_onevision"), H2O(budget=60), 2, chunk_frames=4)
    session.feed([frames[:4], frames[:4]])
    session.ask("What?", max_new_tokens=1, stream=0)
    with pytest.raises(InputError, match="same questions"):
        session.feed([frames[4:], frames[4:]])
