"""Parts registered and configuration files written for the tests of settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hermes.config import compose
from hermes.registry import registry
from tests.config.cases import (
    Chance,
    Mixed,
    Newest,
    Recency,
    Run,
    Tiered,
)


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    named: dict[str, dict[str, type]] = {
        "scorer": {"t_recency": Recency, "t_mixed": Mixed, "t_chance": Chance},
        "policy": {"t_tiered": Tiered, "t_newest": Newest},
    }
    for kind, entries in named.items():
        for name, cls in entries.items():
            monkeypatch.setitem(registry(kind)._local, name, cls)


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    files = {
        "policy/small.yaml": "name: t_tiered\nbudget: 10\nprompt: small\n",
        "policy/smaller.yaml": "defaults: small\nbudget: 5\n"
        "tiers: {sensory: {scorer: t_chance}, deep: null}\n",
        "policy/nested/own.yaml": "name: t_newest\n",
        "policy/typo.yaml": "name: t_tiered\nbugdet: 10\n",
        "policy/broken.yaml": "name: [\n",
        "policy/list.yaml": "- 1\n",
        "policy/loop.yaml": "defaults: pool\n",
        "policy/pool.yaml": "defaults: loop\n",
        "backbone/tiny.yaml": "checkpoint: tiny\ndtype: float16\n",
        "experiment/base.yaml": "policy: smaller\npolicy.budget: 7\nvideo: {fps: 2}\n",
        "experiment/table.yaml": "defaults: base\nseed: 3\n",
        "experiment/edit.yaml": "policy: {defaults: small, prompt: edited}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def run(configs: Path) -> Callable[..., Run]:
    def hub(name: str) -> dict[str, object] | None:
        return {"checkpoint": name} if "/" in name else None

    def composed(*overrides: str) -> Run:
        defaults = {"policy": "t_tiered", "backbone": "tiny"}
        return compose(defaults, overrides, Run, config_dirs=[configs], fallbacks={"backbone": hub})

    return composed
