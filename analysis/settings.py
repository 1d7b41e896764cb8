"""Settings of an investigation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hermes.config import compose, setting
from hermes.evaluation.running.settings import BenchmarkConfig, settings_hash
from hermes.registry import registry
from hermes.session.config import DEFAULTS, FALLBACKS

__all__ = ["PROMPTS", "InvestigateConfig", "default_folder", "investigate_config"]

# Settings of ``queries`` that name a guidance prompt of the policy.
PROMPTS = ("local", "global", "mixed")


@dataclass(kw_only=True)
class InvestigateConfig(BenchmarkConfig):
    """The settings of ``hermes investigate``: those of a run, a benchmark, and what to sample of it.

    Source: arXiv 2601.14724, Sec. 2 (100 questions of each category); the rest is Hermes's own.
    """

    per_category: int = setting(100, help="questions sampled of each category, by seed", ge=1)
    categories: list[str] = setting([], help="categories to sample; all by default")
    queries: str = setting(
        "question",
        help="whose attention: question; local, global or mixed, the policy's guidance prompts at the same "
        "moments; or any other text",
    )
    per_head: bool = setting(False, help="measures of each KV head besides (heads.csv)")
    windows: list[int] = setting(
        [], help="values of policy.budget to go through, each a run of its own; default: the policy's", ge=1
    )
    output: Path | None = setting(
        None, help="folder of figures, tables, tiers and page; default: runs/investigate/ and a name"
    )


def investigate_config(overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> InvestigateConfig:
    """The settings of an investigation from ``key=value`` overrides on the defaults.

    Raises:
        SettingError: an unknown setting, a wrong type or value, an unknown policy, backbone or benchmark.

    >>> investigate_config(["policy=fifo", "per_category=5"]).per_category
    5
    """
    defaults = {**DEFAULTS, "policy": "fifo", "data": "wanderer"}
    return compose(defaults, overrides, InvestigateConfig, config_dirs=config_dirs, fallbacks=FALLBACKS)


def default_folder(config: InvestigateConfig) -> Path:
    """Where a run goes that was given no folder: the same settings, the same folder."""
    data = registry("data").name_of(type(config.data)).rpartition(".")[2]
    policy = registry("policy").name_of(type(config.policy)).rpartition(".")[2]
    return Path("runs/investigate") / f"{data}-{policy}-{settings_hash(config)[:8]}"
