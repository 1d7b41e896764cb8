"""InfiniPot-V against its rule as loops."""

from __future__ import annotations

import math

import pytest
import torch

from hermes.errors import SettingError
from hermes.parts import Never
from hermes.policies.infinipot_v import InfiniPotV
from tests.support.references import rope, toy_rotary
from tests.support.rivals import HEADS, PREFIX, best, steps

pytestmark = pytest.mark.unit


def cosine(a, b) -> float:
    dot, one, two = (
        sum(float(x) * float(y) for x, y in zip(*pair, strict=True)) for pair in ((a, b), (a, a), (b, b))
    )
    return dot / math.sqrt(one * two)


def expected(step, head: int, policy: InfiniPotV, patches: int) -> tuple[list[int], set[int]]:
    """Ids kept and, among them, those that the redundancy in time chose."""
    table, budget = step.before[head], policy.budget
    room = int(policy.keep * budget)
    new = max(int(policy.recent * (budget // patches)), 1)
    keys = step.keys[head].double()
    if policy.keys == "plain":
        rotary = toy_rotary(step.positions.shape[0])
        row = min(head, step.positions.shape[1] - 1)
        keys = rope(keys, -step.positions[:, row], rotary.frequencies.tolist(), rotary.axis.tolist())
    tokens = range(PREFIX, len(table))
    frames, ids = table.frame.tolist(), table.id.tolist()
    newest = sorted(set(frames[PREFIX:]))[-new:]
    recent = [t for t in tokens if frames[t] in newest]
    place = list(zip(table.row.tolist(), table.col.tolist(), strict=True))
    change = {}
    for t in tokens:
        if t not in recent:
            partners = [u for u in recent if place[u] == place[t]]
            change[t] = -sum(cosine(keys[t], keys[u]) for u in partners) / len(partners)
    chosen = best(change, max(int(policy.alpha * room) - len(recent), 0))
    value = {t: float(step.values[head, t].norm()) for t in tokens}
    for t in [*chosen, *recent]:
        value[t] = math.inf
    return [ids[t] for t in best(value, room)], {ids[t] for t in chosen}


@pytest.mark.parametrize("keys", ["plain", "rotated"])
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize(
    ("budget", "keep", "alpha", "recent"), [(48, 0.75, 0.5, 0.25), (40, 0.6, 0.9, 0.4), (26, 1, 0.5, 0.1)]
)
def test_new_frames_changed_patches_and_large_values_stay(keys, axes, budget, keep, alpha, recent):
    policy = InfiniPotV(budget=budget, keep=keep, alpha=alpha, recent=recent, keys=keys)
    compressed = changed = differ = 0
    for _, layers, _ in steps(policy, (4, 3, 5, 2, 6), axes=axes):
        for step in layers:
            held = len(step.before[0]) - PREFIX
            assert (step.update is not None) == (held > budget)
            if step.update is None:
                continue
            for head in range(HEADS):
                kept, by_change = expected(step, head, policy, 6)
                assert step.kept(head) == kept
                changed += len(by_change)
            differ += step.kept(0) != step.kept(1)
            compressed += 1
    assert compressed >= 6
    assert changed
    assert differ


def test_positions_are_dense_after_an_eviction():
    for memory, layers, _ in steps(InfiniPotV(budget=20)):
        for layer, step in zip(memory, layers, strict=True):
            if step.update is not None:
                assert torch.equal(layer.positions[0, 0, 0], torch.arange(layer.length).float())
    last = next(reversed(list(steps(InfiniPotV(budget=20, reindex=Never())))))[0]
    assert float(last[0].positions.max()) > last[0].length


def test_a_patch_that_the_new_frames_lack_has_no_change():
    policy = InfiniPotV(budget=12, recent=0.1)
    memory, _, _ = next(iter(steps(policy, (2,))))
    layer = memory[0]
    layer.tokens.table[3, 0, 0, PREFIX] = 9
    assert policy._likeness(layer, 6)[0, :, 0].tolist() == [2.0, 2.0]
    assert float(policy._likeness(layer, 6)[0, :, 1:].max()) <= 1.0001


def test_protected_tokens_stay():
    policy = InfiniPotV(budget=20)
    memory, _, observe = next(iter(steps(policy, (3,))))
    ids = memory[0].video.id[0, 0, :3].tolist()
    for layer in memory:
        layer.tokens.table[6, :, :, PREFIX : PREFIX + 3] = 1
    policy.budget = 10
    for layer in memory:
        kept = policy.compress(memory, observe)[layer.index].keep
        assert all(set(ids) <= set(layer.origin.id[0, 0, row].tolist()) for row in kept[0])


def test_new_frames_must_fit():
    with pytest.raises(SettingError, match=r"recent: got 0\.5; allowed: at most alpha \* keep, 0\.375"):
        InfiniPotV(recent=0.5)
