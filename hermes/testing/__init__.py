"""The contracts that every policy and every backbone keeps, clause by clause: for ours, and for yours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hermes.backbone import Backbone
from hermes.policy import MemoryPolicy
from hermes.registry import registry
from hermes.testing.backbone_clauses import BACKBONE_CLAUSES
from hermes.testing.backbones import Finding, check_backbone, examine_backbone
from hermes.testing.clauses import CLAUSES, Clause
from hermes.testing.trial import ContractError, Trial

if TYPE_CHECKING:
    import pytest

__all__ = [
    "BACKBONE_CLAUSES",
    "CLAUSES",
    "Clause",
    "ContractError",
    "Finding",
    "Trial",
    "check_backbone",
    "check_policy",
    "examine_backbone",
    "over_clauses",
    "over_policies",
]


def check_policy(policy: str | MemoryPolicy, backbone: Backbone | None = None) -> None:
    """Hold a policy to the contract, all clauses of it.

    Args:
        policy: a registered name, a dotted path such as ``my_module.MyPolicy``, or an instance, of whose
            settings only the budget is changed.
        backbone: a loaded model; the tiny random LLaVA-OneVision by default.

    Raises:
        ContractError: a line for every clause that is broken, and how.

    >>> check_policy("fifo")
    """
    trial = Trial(policy, backbone)
    broken: dict[str, Exception] = {}
    for clause in CLAUSES:
        try:
            clause(trial)
        except Exception as error:
            broken[clause.__name__] = error
    if broken:
        lines = [
            f"{name}: {error if isinstance(error, ContractError) else repr(error)}"
            for name, error in broken.items()
        ]
        raise ContractError("\n".join(lines)) from next(iter(broken.values()))


def over_policies(*more: str) -> pytest.MarkDecorator:
    """Run a pytest test once for every registered policy, and for those named besides, as ``policy``.

    >>> @over_policies("my_module.MyPolicy")
    ... @over_clauses()
    ... def test_policy(policy, clause):
    ...     clause(Trial(policy))
    """
    import pytest

    return pytest.mark.parametrize("policy", [*registry("policy").names(), *more])


def over_clauses() -> pytest.MarkDecorator:
    """Run a pytest test once for every clause of the contract, as ``clause``."""
    import pytest

    return pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: str(clause.__name__))
