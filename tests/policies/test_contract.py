"""The contract of policies: every registered one, a user's own, and policies that break it."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from hermes import open_session
from hermes.backbone import BackboneConfig, load_backbone
from hermes.config import setting
from hermes.forwarding import shipped
from hermes.memory import LayerUpdate
from hermes.parts import Eager, Never, Reindexer
from hermes.policies.fifo import Fifo
from hermes.policies.hermes import Hermes
from hermes.policies.random import Random
from hermes.policies.recent import Recent
from hermes.policies.rekv import Rekv
from hermes.registry import registry
from hermes.testing import CLAUSES, ContractError, Trial, check_policy, clauses, over_policies
from hermes.tokens import Provenance, compacted
from tests.support.contract import families_of, keep_the_contract
from tests.support.references import FAMILIES, tiny

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def trials() -> dict[tuple[str, str], Trial]:
    return {}


@over_policies()
@pytest.mark.parametrize(
    ("clause", "family"),
    [
        pytest.param(clause, family, id=f"{clause.__name__}-{family}")
        for clause in CLAUSES
        for family in families_of(clause, FAMILIES)
    ],
)
def test_policy_keeps_the_contract(policy, clause, family, trials):
    if (policy, family) not in trials:
        trials[policy, family] = Trial(policy, tiny(family))
    clause(trials[policy, family])


def test_the_registry_is_what_is_tried():
    ours = {path.stem for path in shipped("policies").glob("[!_]*.py")}
    assert {"hermes", "full", "fifo", "recent", "infinipot_v", "streammem", "dscache", "h2o"} <= ours
    assert ours <= set(registry("policy").names())
    assert over_policies("my_module.MyPolicy").args[1] == [*registry("policy").names(), "my_module.MyPolicy"]


def test_the_recorded_stream_evicts_and_reindexes():
    steps = Trial("hermes", tiny("llava_onevision")).recording.steps
    assert not steps[0].changed
    assert any(step.updates for step in steps)
    tops = [max(float(layer["positions"].max()) for layer in step.after) for step in steps]
    assert any(later < earlier for earlier, later in pairwise(tops))


def test_one_ranking_per_head_keeps_the_contract():
    policy = Hermes()
    policy.selector.rank, policy.selector.recent, policy.selector.per_frame = "kv_head", 3, 1
    keep_the_contract(policy, tiny("qwen3_vl"))


@pytest.mark.parametrize("rank", ["tier", "all"])
def test_shared_rankings_keep_the_contract(rank):
    policy = Hermes()
    policy.selector.rank = rank
    keep_the_contract(policy, tiny("llava_onevision"))


def test_budget_weights_and_eager_positions_keep_the_contract():
    policy = Hermes(reindex=Eager())
    for name, weight in {"sensory": 1.3, "working": 1.0, "long_term": 0.7}.items():
        policy.tiers[name].weight = weight
    keep_the_contract(policy, tiny("qwen2_5_vl"))


# -- a user's policy ---------------------------------------------------------------------------------------

USER_POLICY = """
    from dataclasses import dataclass

    from hermes import MemoryPolicy, setting


    @dataclass
    class MyPolicy(MemoryPolicy):
        '''Keep the tokens with the largest values.'''

        budget: int = setting(64, help="video tokens a layer holds", unit="tokens", ge=1)

        def compress(self, memory, observe):
            updates = {}
            for layer in memory:
                if layer.video_length > self.budget:
                    size = layer.video_values().norm(dim=-1).mean(dim=1, keepdim=True)
                    updates[layer.index] = layer.keeping(size.topk(self.budget).indices)
            return updates
"""


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A user's folder with a policy, as the current one; its module is forgotten afterwards."""
    (tmp_path / "my_module.py").write_text(textwrap.dedent(USER_POLICY))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("my_module", None)
    yield tmp_path
    sys.modules.pop("my_module", None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_users_policy_keeps_the_contract(own_folder, family):
    check_policy("my_module.MyPolicy", tiny(family))


def test_a_users_policy_runs_in_a_session(own_folder):
    with open_session(tiny("llava_onevision"), "my_module.MyPolicy", budget=50) as session:
        session.feed(Trial("fifo").frames(40))
        answer = session.ask("What is happening?", max_new_tokens=2)
    assert session.memory.lengths == [session.memory.prefix + 50] * session.backbone.num_layers
    assert answer.tokens_per_layer == session.memory.lengths


# -- policies that break the contract ----------------------------------------------------------------------


def full_layers(policy, memory):
    return [layer for layer in memory if layer.video_length > policy.budget]


@dataclass
class OverBudget(Fifo):
    def compress(self, memory, observe):
        keep = torch.arange(self.budget + 1)
        return {layer.index: layer.keeping(keep) for layer in full_layers(self, memory)}


@dataclass
class WastesBudget(Random):
    def compress(self, memory, observe):
        updates = super().compress(memory, observe)
        return {index: LayerUpdate(update.keep[..., :-1]) for index, update in updates.items()}


class AfterwardsPolicy(Fifo):
    """Does something to every layer after each step that changed the memory."""

    def step(self, memory, observe):
        changed = super().step(memory, observe)
        for layer in memory if changed else ():
            self.afterwards(layer)
        return changed


@dataclass
class ChangesPrefix(AfterwardsPolicy):
    def afterwards(self, layer):
        layer.values = torch.cat((layer.values[:, :, :1] + 1, layer.values[:, :, 1:]), dim=2)


@dataclass
class DisordersPositions(AfterwardsPolicy):
    def afterwards(self, layer):
        last = layer.positions[..., -2:].flip(-1)
        layer.positions = torch.cat((layer.positions[..., :-2], last), dim=-1)


@dataclass
class HoldsATokenTwice(AfterwardsPolicy):
    def afterwards(self, layer):
        table = layer.tokens.table.clone()
        table[0, ..., -1] = table[0, ..., -2]
        layer.tokens = Provenance(table)


@dataclass
class WritesBehindOurBack(Fifo):
    def compress(self, memory, observe):
        memory[2].values = memory[2].values * 1.001
        return {}


@dataclass
class NeverReindexes(Fifo):
    reindex: Reindexer = setting(Never())


@dataclass
class ForgetsToRotate(Fifo):
    reindex: Reindexer = setting(Never())

    def step(self, memory, observe):
        changed = super().step(memory, observe)
        if changed:
            for layer in memory:
                layer.positions = compacted(layer.positions, layer.prefix)
                layer.clock = layer.positions.amax(dim=(0, -1)) + 1
            memory.sync_clocks()
        return changed


@dataclass
class Unseeded(Fifo):
    def compress(self, memory, observe):
        keep = torch.randperm(memory[0].video_length)[: self.budget]
        return {layer.index: layer.keeping(keep) for layer in full_layers(self, memory)}


@dataclass
class Overflows(Fifo):
    def compress(self, memory, observe):
        for layer in memory:
            layer.values = layer.values * 1e6
        return super().compress(memory, observe)


@dataclass
class LooksAtOneStream(Fifo):
    def compress(self, memory, observe):
        updates = {}
        for layer in full_layers(self, memory):
            size = layer.video_values().norm(dim=-1).mean(dim=1)[0]
            updates[layer.index] = layer.keeping(size.topk(self.budget).indices)
        return updates


@dataclass
class LeavesAnAttribute(Fifo):
    def compress(self, memory, observe):
        observe.backbone.model.left_behind = True
        return super().compress(memory, observe)


@dataclass
class LeavesAttention(Fifo):
    def compress(self, memory, observe):
        observe.backbone.model.set_attn_implementation("eager")
        return super().compress(memory, observe)


@dataclass
class Remembers(Fifo):
    chunks: int = field(default=0, init=False, compare=False)

    def compress(self, memory, observe):
        self.chunks += 1
        keep = torch.arange(self.budget) + self.chunks % 7
        return {layer.index: layer.keeping(keep) for layer in full_layers(self, memory)}


@dataclass
class ComparesState(Fifo):
    chunks: list[int] = field(default_factory=list, init=False)

    def start(self, context):
        super().start(context)
        self.chunks = [context.num_layers]


@dataclass
class HidesStateInTheMemory(Fifo):
    def compress(self, memory, observe):
        memory.note = getattr(memory, "note", 0) + 1
        keep = torch.arange(self.budget) + memory.note % 7
        return {layer.index: layer.keeping(keep) for layer in full_layers(self, memory)}


@dataclass
class RecallsIntoTheStream(Fifo):
    def compress(self, memory, observe):
        self.memory = memory
        return super().compress(memory, observe)

    def recall(self, call):
        self.memory.apply({1: self.memory[1].keeping(torch.arange(3))})


@dataclass
class HidesItsArchive(Rekv):
    @property
    def archived_bytes(self):
        return 0

    @property
    def resident_bytes(self):
        return 0


@dataclass
class HidesItsFrames(Recent):
    @property
    def resident_bytes(self):
        return 0


@dataclass
class CountsItsFramesTwice(Recent):
    @property
    def resident_bytes(self):
        return 2 * super().resident_bytes


@dataclass
class SaysItIsStateless(Remembers):
    stateless: ClassVar[bool] = True

    def compress(self, memory, observe):
        return super().compress(memory, observe)


BROKEN = {
    OverBudget: clauses.budget_is_kept,
    WastesBudget: clauses.lengths_are_as_declared,
    ChangesPrefix: clauses.prefix_is_kept,
    DisordersPositions: clauses.positions_are_ordered,
    HoldsATokenTwice: clauses.kept_indices_are_valid,
    WritesBehindOurBack: clauses.untriggered_memory_is_untouched,
    NeverReindexes: clauses.positions_stay_in_range,
    ForgetsToRotate: clauses.keys_are_rope_from_scratch,
    Unseeded: clauses.streams_are_deterministic,
    Overflows: clauses.dtype_and_device_are_preserved,
    LooksAtOneStream: clauses.streams_in_a_batch_are_independent,
    LeavesAnAttribute: clauses.model_is_left_as_found,
    LeavesAttention: clauses.model_is_left_as_found,
    Remembers: clauses.reset_is_fresh,
    ComparesState: clauses.settings_round_trip,
    HidesStateInTheMemory: clauses.saved_memory_goes_on,
    RecallsIntoTheStream: clauses.question_leaves_the_memory,
    HidesItsArchive: clauses.growth_is_reported,
    HidesItsFrames: clauses.what_is_held_is_counted,
    CountsItsFramesTwice: clauses.what_is_held_is_counted,
    SaysItIsStateless: clauses.stateless_is_stateless,
}


@pytest.mark.parametrize("policy", BROKEN, ids=lambda policy: policy.__name__)
def test_a_broken_policy_is_caught(policy):
    # A model of its own: some of these leave something on it.
    trial = Trial(policy(), load_backbone(BackboneConfig(family="tiny_llava_onevision")))
    with pytest.raises(ContractError):
        BROKEN[policy](trial)


def test_all_that_is_broken_is_told_at_once():
    backbone = load_backbone(BackboneConfig(family="tiny_llava_onevision"))
    with pytest.raises(ContractError) as failure:
        check_policy(DisordersPositions(), backbone)
    told = [line.split(":")[0] for line in str(failure.value).splitlines()]
    assert {"positions_are_ordered", "keys_are_rope_from_scratch"} <= set(told)
    assert not {"settings_round_trip", "prefix_is_kept", "budget_is_kept"} & set(told)


def test_every_clause_has_a_policy_that_breaks_it():
    assert set(CLAUSES) == set(BROKEN.values())
