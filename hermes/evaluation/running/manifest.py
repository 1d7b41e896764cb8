"""The record of what an evaluation was run with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from hermes.attention import NAME
from hermes.backbone import Backbone, weights_fingerprint
from hermes.config import resolved_yaml
from hermes.evaluation.running.settings import BenchmarkConfig, answer_settings, settings_hash
from hermes.machine.environment import environment
from hermes.session.session import StreamSession

__all__ = ["manifest"]

# Weights up to this size are hashed whole.
_HASHED_BYTES = 1 << 28


def manifest(config: BenchmarkConfig, session: StreamSession) -> dict[str, Any]:
    """Settings, seed, weights, versions and machine of a run, as plain values."""
    prompts = session.policy.prompts_used()
    return {
        "config_hash": settings_hash(config),
        "weights": _weights(session.backbone),
        "fingerprint": weights_fingerprint(session.backbone),
        "dtype": str(session.backbone.dtype).removeprefix("torch."),
        "settings": resolved_yaml(answer_settings(config)),
        "seed": config.seed,
        "questions": config.data.fingerprint(),
        "average": config.data.average,
        "prompts": None if prompts is None else prompts.hashes(),
        **environment(NAME, session.backbone.device),
    }


def _weights(backbone: Backbone) -> str:
    """What tells one checkpoint from another: the hub's commit, or a hash of a local folder's weights."""
    commit = getattr(backbone.model.config, "_commit_hash", None)
    if commit:
        return str(commit)
    named = Path(backbone.config.checkpoint or "")
    files = [named] if named.is_file() else []
    files = files or (sorted(named.glob("*.safetensors")) if backbone.config.checkpoint else [])
    digest = hashlib.sha256()
    whole = sum(file.stat().st_size for file in files) <= _HASHED_BYTES
    for file in files:
        state = file.stat()
        digest.update(file.read_bytes() if whole else f"{file} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16] if files else "random"
