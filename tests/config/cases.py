"""Parts, a policy and a run of their own for the tests of settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest

from hermes.config import Part, setting
from hermes.errors import InputError, SettingError


class Scorer(Part, ABC):
    kind: ClassVar[str] = "scorer"

    @abstractmethod
    def score(self) -> float: ...


@dataclass
class Recency(Scorer):
    """Newest first."""

    k: float = setting(20.0, help="forgetting rate", gt=0)

    def score(self) -> float:
        return self.k


@dataclass
class Mixed(Scorer):
    """A weighted sum of others."""

    scorers: list[Scorer] = setting([], help="what to mix")
    weights: dict[str, float] = setting({}, ge=0)

    def score(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Chance(Scorer):
    seed: int = 0

    def score(self) -> float:
        return 0.0


@dataclass
class Tier:
    share: float = setting(help="share of the layers", ge=0, le=1)
    scorer: Scorer = setting(Recency(), help="what to keep")


@dataclass
class Smoothing:
    lam: float = setting(0.1, ge=0, lt=1)
    align: Literal["index", "identity"] = "index"
    deep: dict[str, float] = setting({"a": 1.0})
    layers: dict[int, float] = setting({3: 0.5})


class Policy(Part):
    kind: ClassVar[str] = "policy"


@dataclass
class Tiered(Policy):
    """Tiers of layers."""

    budget: int = setting(4000, help="video tokens a layer", unit="tokens", ge=1)
    tiers: dict[str, Tier] = setting({"sensory": Tier(0.1), "deep": Tier(0.9, Chance())})
    smoothing: Smoothing = setting(Smoothing(lam=0.3))
    prompt: str = "Describe."

    def __post_init__(self) -> None:
        if sum(tier.share for tier in self.tiers.values()) > 1.0001:
            raise SettingError("tiers", [t.share for t in self.tiers.values()], "shares that add up to 1")


@dataclass
class Newest(Policy):
    """Keep the newest."""

    budget: int = setting(4000, ge=1)


@dataclass
class Backbone:
    checkpoint: str
    dtype: Literal["auto", "float16"] = "auto"
    device: str | None = None


@dataclass
class Video:
    fps: float = setting(0.5, help="frames a second", gt=0)
    size: tuple[int, int] = (640, 360)


@dataclass
class Run:
    policy: Policy
    backbone: Backbone
    video: Video = field(default_factory=Video)
    seed: int | None = None
    experiment: str = ""


def error(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)
