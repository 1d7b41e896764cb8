"""Opening a session on a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from hermes.backbone import Backbone, BackboneConfig, load_backbone
from hermes.config import build, check
from hermes.errors import SettingError
from hermes.policy import MemoryPolicy, with_budget
from hermes.session.config import DEFAULTS, RunConfig, run_config
from hermes.session.session import StreamSession

if TYPE_CHECKING:
    BackboneForm: TypeAlias = str | Path | Mapping[str, Any] | BackboneConfig | Backbone
    PolicyForm: TypeAlias = str | Path | Mapping[str, Any] | type[MemoryPolicy] | MemoryPolicy
    Budget: TypeAlias = int | None
else:
    # Looked at where they are used, so that a wrong one is named in words.
    BackboneForm = PolicyForm = Budget = object


# What a caller who names no backbone gets, where no loaded model is given.
_DEFAULT = DEFAULTS["backbone"]


def open_session(
    backbone: BackboneForm = _DEFAULT,
    policy: PolicyForm = "hermes",
    budget: Budget = None,
    *,
    model: Any = None,
    processor: Any = None,
    overrides: Sequence[str] = (),
) -> StreamSession:
    """A session on a checkpoint, or on a model that you have loaded, with a policy and a budget.

    Args:
        backbone: a shipped config, a hub id, a local folder, a YAML file, settings (a mapping, or a
            ``BackboneConfig``), or a loaded backbone.
        policy: a registered name, a dotted path, a YAML file, a mapping ``{"name": ..., **settings}``, a
            class, or an instance.
        model: a loaded model of transformers in place of ``backbone``. Its number types, devices and
            quantised weights stay as they are, and between calls it is as it was found. How it is used is
            said in ``overrides``: ``"backbone.layout=native"``.
        processor: that model's: what ``AutoProcessor`` gives, the folder or hub id of its checkpoint, or of
            a text model its tokenizer.
        budget: ``policy.budget``; the policy's own if not given.
        overrides: any other settings, as on the command line: ``"stream.chunk_frames=8"``.

    Raises:
        SettingError: a wrong setting; one of a policy or backbone that was given ready; two budgets; both a
            backbone and a model; no loaded model, or no processor of it.
        InputError: a checkpoint that cannot be loaded.
        UnsupportedModelError: a model that Hermes cannot stream through.

    >>> import numpy as np
    >>> with open_session("tiny_llava_onevision", "hermes", budget=64) as session:
    ...     session.feed(np.zeros((30, 42, 42, 3), np.uint8))
    ...     answer = session.ask("What is happening?")
    >>> max(session.memory.lengths) <= 64 + session.memory.prefix
    True
    >>> open_session(session.backbone, {"name": "fifo", "budget": 40}).policy
    Fifo(budget=40)
    """
    own = model is not None or processor is not None
    if own and backbone is not _DEFAULT:
        given = backbone if isinstance(backbone, str | Path) else type(backbone).__name__
        raise SettingError("backbone", given, "not given beside model=... and processor=...")
    loaded = backbone if isinstance(backbone, Backbone) else None
    chosen = {
        "backbone": {"checkpoint": ""} if own else _backbone_choice(backbone),
        "policy": _policy_choice(policy, budget),
    }
    if budget is not None and not isinstance(chosen["policy"], MemoryPolicy):
        if any(text.partition("=")[0].strip() == "policy.budget" for text in overrides):
            raise SettingError("policy.budget", budget, "one budget: it is among the overrides as well")
        overrides = [f"policy.budget={budget}", *overrides]
    config = run_config(overrides, chosen=chosen)
    if own:
        loaded = load_backbone(config.backbone, model=model, processor=processor)
    return session_from(config, loaded)


def _backbone_choice(backbone: object) -> object:
    """What stands for the backbone among the settings of a run."""
    if isinstance(backbone, Backbone):
        return backbone.config
    if isinstance(backbone, Mapping):
        return build(BackboneConfig, backbone, "backbone")
    if isinstance(backbone, Path):
        if not backbone.expanduser().exists():
            raise SettingError("backbone", str(backbone), "a folder or a YAML file that exists")
        # Absolute: a folder of this name may also be the name of a configuration.
        return str(backbone.expanduser().absolute())
    if isinstance(backbone, (str, BackboneConfig)):
        return backbone
    forms = "a name, a hub id, a folder, a YAML file, a mapping of settings, or a loaded backbone"
    raise SettingError("backbone", backbone, forms)


def _policy_choice(policy: object, budget: Budget) -> object:
    """What stands for the policy among the settings of a run; with this budget where it is given ready."""
    if budget is not None:
        budget = check(int, budget, "policy.budget", {"ge": 1})
    if isinstance(policy, type) and issubclass(policy, MemoryPolicy) and not isabstract(policy):
        return build(policy, {} if budget is None else {"budget": budget}, "policy")
    if isinstance(policy, MemoryPolicy):
        return policy if budget is None else with_budget(policy, budget)
    if isinstance(policy, Path):
        if policy.suffix not in (".yaml", ".yml"):
            raise SettingError("policy", str(policy), "a YAML file (.yaml), where it is a path")
        return str(policy)
    if isinstance(policy, str) or (isinstance(policy, Mapping) and {"name", "defaults"} & policy.keys()):
        return policy
    forms = (
        "a registered name, a dotted path, a YAML file, a mapping {'name': ..., **settings}, a class or an "
        "instance of MemoryPolicy"
    )
    raise SettingError("policy", policy, forms)


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
