"""The contract of policies, tried on variants of a policy that keeps it already."""

from __future__ import annotations

from hermes.backbone import Backbone
from hermes.policy import MemoryPolicy
from hermes.testing import CLAUSES, Clause, Trial

# What no setting of a policy changes: tried once for every policy, and not for its variants.
ONCE = ("dtype_and_device_are_preserved", "model_is_left_as_found")

# What no model family changes: tried with the first family alone.
ANY_FAMILY = (
    "lengths_are_as_declared",
    "streams_are_deterministic",
    "reset_is_fresh",
    "settings_round_trip",
    "growth_is_reported",
    "what_is_held_is_counted",
    "stateless_is_stateless",
)


def keep_the_contract(policy: MemoryPolicy, backbone: Backbone) -> None:
    """Hold a variant of a policy to the contract."""
    trial = Trial(policy, backbone)
    for clause in CLAUSES:
        if clause.__name__ not in ONCE:
            clause(trial)


def families_of(clause: Clause, families: tuple[str, ...]) -> tuple[str, ...]:
    """The families that a clause is tried with."""
    return families[:1] if clause.__name__ in ANY_FAMILY else families
