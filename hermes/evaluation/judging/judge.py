"""What judges open-ended answers: the part a setting chooses, and its verdict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hermes.config import Part, Settings, compose, config_hash, setting, to_dict
from hermes.errors import InputError

__all__ = ["Judge", "RefusedError", "Verdict", "judge_config"]


class RefusedError(InputError):
    """An endpoint that works does not take this one question."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one answer, and how it came to say so.

    Attributes:
        correct: whether the answer is right; None: no reply could be read as a verdict.
        score: 0 to 5, where the judge gives one.
        messages: what a model was asked; none where there is no model.
        replies: its replies, word for word; the last one holds the verdict.
    """

    correct: bool | None
    score: float | None = None
    messages: tuple[Mapping[str, str], ...] = ()
    replies: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Judge(Part, ABC):
    """Says whether an open-ended answer means what the expected one means (setting ``judge``).

    Subclass it as a dataclass whose fields are the settings (``judge.*``).

    Attributes:
        indifferent: settings that no verdict depends on: with others in their place it is the same judge.
    """

    kind: ClassVar[str] = "judge"
    indifferent: ClassVar[frozenset[str]] = frozenset({"parallel", "cache"})

    parallel: int = setting(4, help="answers judged at a time", ge=1)
    cache: Path | None = setting(None, help="a file of verdicts that several runs share (JSON lines)")

    @abstractmethod
    def verdict(self, question: str, expected: str, answer: str) -> Verdict:
        """Judge one answer; called from several threads at a time.

        Raises:
            RefusedError: this question is not taken, others are.
            InputError: nothing can be judged.
        """

    def check(self) -> None:
        """See that it can be used here, before anything long begins.

        Raises:
            InputError: the judge cannot be used.
        """

    @property
    def identity(self) -> str:
        """16 hexadecimal digits: judges that share them give the same verdicts, as far as they can."""
        plain = to_dict(self, hashing=True)
        return config_hash({k: v for k, v in plain.items() if k not in self.indifferent})

    def record(self) -> dict[str, Any]:
        """What the manifest of a run says of it."""
        return {**to_dict(self), "identity": self.identity}


@dataclass(kw_only=True)
class _JudgeConfig(Settings):
    judge: Judge = setting(help="who judges open-ended answers")


def judge_config(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Judge:
    """The judge that ``judge=NAME`` and ``judge.*=value`` say.

    Raises:
        SettingError: none is named, or a wrong setting.

    >>> judge_config(["judge=words", "judge.threshold=0.7"]).threshold
    0.7
    """
    return compose({}, overrides, _JudgeConfig, config_dirs=config_dirs).judge
