"""The contract that every backbone keeps, clause by clause: for ours, and for yours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hermes.backbone import Backbone
from hermes.errors import SettingError
from hermes.testing.backbone_clauses import BACKBONE_CLAUSES
from hermes.testing.backbone_trial import BackboneTrial, Skipped
from hermes.testing.trial import ContractError

__all__ = ["Finding", "check_backbone", "examine_backbone"]


@dataclass(frozen=True)
class Finding:
    """What became of one clause.

    Attributes:
        clause: its name.
        outcome: whether it is kept, broken, or could not be looked at here.
        why: what is wrong, or what was missing.
    """

    clause: str
    outcome: Literal["kept", "broken", "skipped"]
    why: str = ""

    def __str__(self) -> str:
        return f"{self.clause}: {self.why}" if self.why else self.clause


def examine_backbone(backbone: Backbone, processor: Any = None) -> list[Finding]:
    """Hold a backbone to every clause, and say what became of each; arguments as :func:`check_backbone`."""
    if not isinstance(backbone, Backbone):
        hint = "hermes.load_backbone gives one."
        raise SettingError("backbone", type(backbone).__name__, "a loaded backbone", hint)
    trial, findings = BackboneTrial(backbone, processor), list[Finding]()
    for clause in BACKBONE_CLAUSES:
        name = clause.__name__
        try:
            clause(trial)
        except Skipped as reason:
            findings.append(Finding(name, "skipped", str(reason)))
        except ContractError as error:
            findings.append(Finding(name, "broken", str(error)))
        except Exception as error:
            findings.append(Finding(name, "broken", f"{type(error).__name__}: {error}"))
        else:
            findings.append(Finding(name, "kept"))
    return findings


def check_backbone(backbone: Backbone, processor: Any = None) -> list[Finding]:
    """Hold a backbone to the contract, all clauses of it.

    Args:
        backbone: a loaded model family; the model is as it was afterwards.
        processor: the family's own of transformers, with which prompt and pixels are compared. By default the
            prompt is that of a processor made from the checkpoint's settings, and pixels are compared where
            torchvision is installed and the backbone has a checkpoint.

    Returns:
        what became of each clause: kept, or skipped, and why.

    Raises:
        SettingError: no loaded backbone.
        ContractError: a line for every clause that is broken, and what to mend.

    >>> from hermes import load_backbone
    >>> findings = check_backbone(load_backbone("tiny_qwen3_vl"))
    >>> [str(finding).partition(":")[0] for finding in findings if finding.outcome == "skipped"]
    ['pixels_are_the_processors']
    """
    findings = examine_backbone(backbone, processor)
    broken = [finding for finding in findings if finding.outcome == "broken"]
    if broken:
        raise ContractError("\n".join(map(str, broken)))
    return findings
