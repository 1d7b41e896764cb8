"""Opening a session on a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from hermes.backbone import Backbone, load_backbone
from hermes.errors import SettingError
from hermes.policy import MemoryPolicy
from hermes.session.config import RunConfig, run_config
from hermes.session.session import StreamSession


def open_session(
    backbone: str | Backbone = "embedded",
    policy: str | MemoryPolicy = "hermes",
    budget: int | None = None,
    *,
    overrides: Sequence[str] = (),
) -> StreamSession:
    """A session on a checkpoint, with a policy and a budget.

    Args:
        backbone: a shipped config, a hub id, a local folder, or a loaded backbone.
        policy: a registered name, a dotted path, or an instance.
        budget: ``policy.budget``; the policy's default if not given.
        overrides: any other settings, as on the command line: ``"stream.chunk_frames=8"``.

    Raises:
        SettingError: a wrong setting.
        InputError: a checkpoint that cannot be loaded.

    >>> import numpy as np
    >>> from hermes.video import open_source
    >>> with open_session("tiny_llava_onevision", "hermes", budget=64) as session:
    ...     session.feed(open_source(np.zeros((30, 42, 42, 3), np.uint8)))
    ...     answer = session.ask("What is happening?")
    >>> max(session.memory.lengths) <= 64 + session.memory.prefix
    True
    """
    named = [
        f"{group}={value}"
        for group, value in (("backbone", backbone), ("policy", policy))
        if isinstance(value, str)
    ]
    if budget is not None and isinstance(policy, str):
        named.append(f"policy.budget={budget}")
    config = run_config([*named, *overrides])
    if isinstance(policy, MemoryPolicy):
        given: Any = policy
        if budget is not None and budget < 1:
            raise SettingError("policy.budget", budget, "an integer of at least 1")
        config.policy = given if budget is None else replace(given, budget=budget)
    return session_from(config, None if isinstance(backbone, str) else backbone)


def session_from(config: RunConfig, backbone: Backbone | None = None) -> StreamSession:
    """A session from a run's settings; the backbone is loaded unless one is given.

    Raises:
        SettingError: a setting that the model or the machine does not allow.
        InputError: a checkpoint that cannot be loaded.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    loaded = load_backbone(config.backbone) if backbone is None else backbone
    return StreamSession(
        loaded,
        config.policy,
        fps=config.video.fps,
        chunk_frames=config.stream.chunk_frames,
        generation=config.generation,
        memory=config.memory,
        callbacks=list(config.callbacks.values()),
        probe=config.probe,
        seed=config.seed,
        question=config.question,
    )
