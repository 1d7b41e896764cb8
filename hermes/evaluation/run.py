"""A benchmark asked from start to end: every video streamed once, every question at its time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hermes.backbone import Backbone
from hermes.config import compose, config_hash, resolved_yaml, setting
from hermes.data.annotations import Clip, TimedQuestion
from hermes.data.benchmark import Benchmark
from hermes.environment import environment
from hermes.errors import InputError, SettingError
from hermes.evaluation.rows import Journal, Row
from hermes.evaluation.summary import Summary, summarise
from hermes.loading import load_backbone
from hermes.prompts import Turn
from hermes.registry import registry
from hermes.run import session_from
from hermes.session import StreamSession
from hermes.settings import DEFAULTS, FALLBACKS, RunConfig

__all__ = ["EvalConfig", "default_folder", "eval_config", "evaluate"]

# Weights up to this size are hashed whole.
_HASHED_BYTES = 1 << 28


@dataclass(kw_only=True)
class EvalConfig(RunConfig):
    """The settings of ``hermes eval``: those of a run, a benchmark, and a folder (this project)."""

    data: Benchmark = setting(help="the benchmark")
    output: Path | None = setting(
        None, help="folder of rows and manifest; default: runs/eval/ and a name made of the settings"
    )


def eval_config(overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> EvalConfig:
    """The settings of an evaluation from ``key=value`` overrides on the defaults (this project).

    Raises:
        SettingError: an unknown setting, a wrong type or value, an unknown policy, backbone or benchmark.

    >>> eval_config(["policy=fifo", "data.streams=3"]).data.streams
    3
    """
    defaults = {**DEFAULTS, "data": "wanderer"}
    return compose(defaults, overrides, EvalConfig, config_dirs=config_dirs, fallbacks=FALLBACKS)


def default_folder(config: EvalConfig) -> Path:
    """Where a run goes that was given no folder: the same settings, the same folder (this project)."""
    data = registry("data").name_of(type(config.data)).rpartition(".")[2]
    policy = registry("policy").name_of(type(config.policy)).rpartition(".")[2]
    return Path("runs/eval") / f"{data}-{policy}-{config.policy.budget}-{_settings_hash(config)[:8]}"


def evaluate(
    config: EvalConfig,
    folder: Path,
    *,
    backbone: Backbone | None = None,
    watcher: Callable[[int, int], None] | None = None,
) -> Summary:
    """Ask every question of a benchmark, each from the frames before its time alone, and count.

    Source: this project. Rows are written one by one to ``folder/rows.jsonl``; ``folder/manifest.json`` says
    what they were made with. A folder that holds part of this run is gone on with: videos are streamed
    again up to the questions that are missing, and the answers come out as without the interruption.

    Args:
        config: everything.
        folder: of this run.
        backbone: a loaded one; by default that of ``config``.
        watcher: called with videos done and videos in all.

    Raises:
        SettingError: a wrong setting, or a folder that holds another run.
        InputError: a video or an annotation that cannot be read.
    """
    loaded = load_backbone(config.backbone) if backbone is None else backbone
    with session_from(config, loaded) as session:
        _check_folder(folder, _manifest(config, session))
        journal = Journal(folder)
        for index in range(len(config.data)):
            _clip(session, config, index, journal)
            if watcher is not None:
                watcher(index + 1, len(config.data))
    return summarise(journal.rows.values())


def _clip(session: StreamSession, config: EvalConfig, index: int, journal: Journal) -> None:
    clip = config.data.clip(index)
    done = [journal.rows.get((index, number)) for number in range(len(clip.questions))]
    if all(done):
        return
    # Every video its own random numbers, whichever were streamed before.
    session.seed = int(np.random.SeedSequence((config.seed, index)).generate_state(1)[0])
    session.reset()
    due = [number for number, question in enumerate(clip.questions) if question.time is not None]
    rest = [number for number, question in enumerate(clip.questions) if question.time is None]
    times = [clip.questions[number].time or 0.0 for number in due]
    with config.data.frames(index, config.video, session.fps) as frames:
        watching = session.watch(frames, times)
        # Zip takes the question first, so that nothing is read beyond what the last one needs.
        for number, _ in zip(due, watching, strict=False):
            _answer(session, (index, number), clip, done[number], journal)
        if rest:
            for _ in watching:
                pass
        for number in rest:
            _answer(session, (index, number), clip, done[number], journal)


def _answer(
    session: StreamSession, place: tuple[int, int], clip: Clip, done: Row | None, journal: Journal
) -> None:
    question = clip.questions[place[1]]
    if done is not None:
        # What follows may depend on the rounds before.
        said = done.choice or done.answer
        session.context.history.append(Turn(question.question, said, question.choices))
        return
    try:
        answer = session.ask(question.question, question.choices, correct=question.answer or None)
    except InputError as error:
        raise InputError(f"{_where(clip, question)}: {error}") from error
    journal.add(Row.of(place, clip, question, answer))


def _where(clip: Clip, question: TimedQuestion) -> str:
    time = "the end" if question.time is None else f"{question.time:g} s"
    return f"{clip.video or clip.id}, question at {time}"


def _settings_hash(config: EvalConfig) -> str:
    return config_hash(replace(config, output=None))


def _manifest(config: EvalConfig, session: StreamSession) -> dict[str, Any]:
    prompts = session.policy.prompts_used()
    return {
        "config_hash": _settings_hash(config),
        "weights": _weights(session.backbone),
        "settings": resolved_yaml(config),
        "seed": config.seed,
        "prompts": None if prompts is None else prompts.hashes(),
        **environment(session.backbone.device),
    }


def _weights(backbone: Backbone) -> str:
    """What tells one checkpoint from another: the hub's commit, or a hash of a local folder's weights."""
    commit = getattr(backbone.model.config, "_commit_hash", None)
    if commit:
        return str(commit)
    folder = Path(backbone.config.checkpoint or "")
    files = sorted(folder.glob("*.safetensors")) if backbone.config.checkpoint else []
    digest = hashlib.sha256()
    whole = sum(file.stat().st_size for file in files) <= _HASHED_BYTES
    for file in files:
        state = file.stat()
        digest.update(file.read_bytes() if whole else f"{file} {state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16] if files else "random"


def _check_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, or see that the one that is there is of the same run."""
    path = folder / "manifest.json"
    if path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}") from error
        others = [key for key in ("config_hash", "weights") if kept.get(key) != manifest[key]]
        if others:
            hint = f"It holds a run with another {' and '.join(others)}: {path}."
            raise SettingError("output", str(folder), "a new folder, or one of this very run", hint)
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
