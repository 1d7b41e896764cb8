"""The contract of policies on decoders in which channels or layers do not turn, or borrow keys."""

from __future__ import annotations

import pytest

from hermes.backbone import Backbone
from hermes.policies.fifo import Fifo
from hermes.testing import CLAUSES, ContractError, Trial, clauses
from tests.support.tiny_models import APART, TINY, tiny_model
from tests.support.tiny_text import SERVED, text_model

pytestmark = pytest.mark.model

# Some channels turn; some layers do; borrowed keys. The others are tried when asked for.
SHORT = ("gpt_neox", "smollm3", "gemma4_small")


def decoder(name: str) -> Backbone:
    return text_model(name) if name in SERVED else tiny_model(name, "stream")


@pytest.mark.parametrize("policy", ["hermes", "streaming_llm"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SHORT else pytest.mark.thorough)
        for name in [*SERVED, *TINY, *APART]
    ],
)
def test_policies_keep_the_contract_on(name, policy):
    trial = Trial(policy, decoder(name))
    for clause in CLAUSES:
        clause(trial)


class ForgetsToRotate(Fifo):
    """Moves tokens to other positions, and leaves their keys as they were."""

    def compress(self, memory, observe):
        updates = super().compress(memory, observe)
        for layer in memory if updates else ():
            layer.positions[..., layer.prefix :] += 1
        return updates


@pytest.mark.parametrize("name", SHORT)
def test_keys_of_other_positions_are_noticed_on(name):
    with pytest.raises(ContractError, match="keys are not those of their positions"):
        clauses.keys_are_rope_from_scratch(Trial(ForgetsToRotate(), decoder(name)))
