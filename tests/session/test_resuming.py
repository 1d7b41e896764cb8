"""A session goes on from a saved stream that is its own in everything that matters, or stays as it was."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hermes.backbone import Backbone, BackboneConfig, load_backbone
from hermes.decoding.generation import GenerationConfig
from hermes.errors import InputError, SettingError
from hermes.memory import MemoryConfig
from hermes.parts import RandomScore, Recency
from hermes.policies.fifo import Fifo
from hermes.policies.full import Full
from hermes.policies.h2o import H2O
from hermes.policies.rekv import Rekv
from hermes.policies.uniform import Uniform
from hermes.policy import Store, Tier, TieredPolicy
from hermes.session.session import Callback, StreamSession
from tests.session.test_saved_before import SAVED
from tests.session.test_session import frames

pytestmark = pytest.mark.model
TINY = BackboneConfig(family="tiny_llava_onevision")
SHORT = GenerationConfig(max_new_tokens=4)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(TINY)


def session(backbone: Backbone, policy: Any = None, **options: Any) -> StreamSession:
    given = {"chunk_frames": 4, "fps": 1.0, "generation": SHORT, **options}
    return StreamSession(backbone, policy or Fifo(budget=24), **given)


@pytest.fixture(scope="module")
def saved(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    first = session(backbone)
    first.feed(frames(0, 10))
    first.ask("What now?", ["a", "b"])
    first.save(folder)
    return folder


def state_of(one: StreamSession) -> dict[str, Any]:
    """Everything that a refused resume must leave alone."""
    return {
        "memory": [tensor.clone() for tensor in one.memory.state()],
        "objects": (id(one.memory), id(one.policy), id(one.stream), id(one.context), id(one.observer)),
        "waiting": list(one.waiting),
        "video": copy.copy(one.video),
        "stats": one.stats(),
        "now": one.now,
        "history": list(one.context.history),
        "generator": one.context.generator.get_state().clone(),
        "policy": {name: tensor.clone() for name, tensor in one.policy.state().items()},
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def refused(one: StreamSession, folder: Path, kind: type[InputError] = SettingError) -> InputError:
    """The error with which a session refuses a saved stream; the session is as it was, and goes on so."""
    one.feed(frames(0, 6))
    before = state_of(one)
    with pytest.raises(kind) as caught:
        one.resume(folder)
    assert equal(before, state_of(one))
    one.feed(frames(6, 4))
    assert one.ask("And?").frames_seen == 10
    return caught.value


def other_weights(backbone: Backbone) -> Backbone:
    other = load_backbone(TINY)
    with torch.no_grad():
        next(iter(other.model.model.language_model.layers[-1].parameters())).view(-1)[3] += 1e-6
    return other


def tiers(*names: str, share: float = 0.5) -> TieredPolicy:
    shares = {"old": share, "new": 1 - share}
    return TieredPolicy(budget=24, tiers={name: Tier(share=shares[name], scorer=Recency()) for name in names})


OTHERS: dict[str, tuple[str, Callable[[Backbone], StreamSession]]] = {
    "weights": ("backbone.weights", lambda b: session(other_weights(b))),
    "seed": ("backbone.weights", lambda b: session(load_backbone(replace(TINY, seed=1)))),
    "half": ("backbone.dtype", lambda b: session(load_backbone(replace(TINY, dtype="bfloat16")))),
    "layout": ("backbone.layout", lambda b: session(load_backbone(replace(TINY, layout="native")))),
    "prompt": (
        "backbone.system_prompt",
        lambda b: session(load_backbone(replace(TINY, system_prompt="Be brief."))),
    ),
    "family": (
        "backbone.family",
        lambda b: session(load_backbone(BackboneConfig(family="tiny_qwen2_5_vl"))),
    ),
    "fps": ("video.fps", lambda b: session(b, fps=2.0)),
    "chunk": ("stream.chunk_frames", lambda b: session(b, chunk_frames=2)),
    "clock": ("memory.clock", lambda b: session(b, memory=MemoryConfig(clock="first_layer"))),
    "written": ("memory.keep_written", lambda b: session(b, memory=MemoryConfig(keep_written=True))),
    "policy": ("policy", lambda b: session(b, Uniform(budget=24))),
    "budget": ("policy.budget", lambda b: session(b, Fifo(budget=25))),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_stream_saved_under_another_setting_is_refused_by_its_name(
    case: str, backbone: Backbone, saved: Path
) -> None:
    where, make = OTHERS[case]
    other = make(backbone)
    error: Any = refused(other, saved)
    assert error.where == where
    assert f"with which {saved} was saved" in str(error)


@pytest.mark.parametrize(
    ("policy", "other", "where"),
    [
        (tiers("old", "new"), tiers("old", "new", share=0.25), "policy.tiers.old.share"),
        (tiers("old", "new"), tiers("new", "old"), "policy.tiers"),
        (
            tiers("old", "new"),
            replace(
                tiers("old", "new"), tiers={**tiers("old", "new").tiers, "new": Tier(0.5, RandomScore())}
            ),
            "policy.tiers.new.scorer",
        ),
        (Rekv(budget=24), Rekv(budget=24, recent=4), "policy.recent"),
        (Rekv(budget=24), Rekv(budget=24, store=Store(precision="int8")), "policy.store.precision"),
    ],
    ids=["share", "order", "scorer", "recent", "store"],
)
def test_settings_inside_a_policy_count(
    policy: Any, other: Any, where: str, backbone: Backbone, tmp_path: Path
) -> None:
    first = session(backbone, policy)
    first.feed(frames(0, 8))
    first.save(tmp_path)
    error: Any = refused(session(backbone, other), tmp_path)
    assert error.where == where


def test_what_has_no_part_in_a_stream_may_differ(backbone: Backbone, saved: Path, tmp_path: Path) -> None:
    free = session(
        backbone,
        seed=7,
        callbacks=[Callback()],
        generation=GenerationConfig(max_new_tokens=2),
        memory=MemoryConfig(kernels="torch", execution="static"),
    )
    free.resume(saved)
    assert free.frames_seen == 10
    # A memory that keeps everything is the same however its frames came.
    whole = session(backbone, Full())
    whole.feed(frames(0, 8))
    whole.save(tmp_path / "full")
    session(backbone, Full(), chunk_frames=2).resume(tmp_path / "full")
    kept = session(backbone, Rekv(budget=24))
    kept.feed(frames(0, 12))
    kept.save(tmp_path / "archive")
    on_disk = session(backbone, Rekv(budget=24, store=Store(place="disk", folder=tmp_path / "files")))
    on_disk.resume(tmp_path / "archive")
    assert on_disk.ask("Where?").ids.tolist() == kept.ask("Where?").ids.tolist()


def test_a_resumed_session_counts_on(backbone: Backbone, saved: Path) -> None:
    one = session(backbone)
    one.feed(frames(0, 5))
    one.resume(saved)
    stats = one.stats()
    assert (stats.frames, stats.chunks, stats.questions, one.waiting) == (10, 3, 1, [])
    one.feed(frames(10, 4))
    assert one.stats().chunks == 4
    one.reset()
    assert (one.frames_seen, one.stats().chunks, one.memory.lengths[0]) == (0, 0, 0)


def test_an_empty_stream_and_one_of_a_policy_with_state_come_back(backbone: Backbone, tmp_path: Path) -> None:
    session(backbone).save(tmp_path / "empty")
    again = session(backbone)
    again.feed(frames(0, 6))
    again.resume(tmp_path / "empty")
    assert (again.frames_seen, again.waiting, again.memory.lengths[0]) == (0, [], 0)
    scored, later = session(backbone, H2O(budget=24)), session(backbone, H2O(budget=24))
    scored.feed(frames(0, 12))
    scored.save(tmp_path / "scored")
    later.feed(frames(0, 7))
    later.resume(tmp_path / "scored")
    for one in (scored, later):
        one.feed(frames(12, 8))
        one.flush()
    assert equal(list(scored.memory.state()), list(later.memory.state()))


def test_a_later_format_and_a_missing_folder_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    session(backbone).save(tmp_path)
    record = tmp_path / "memory.json"
    record.write_text(record.read_text().replace('"format": 2', '"format": 3'))
    assert "format: 3, written by a later version" in str(refused(session(backbone), tmp_path, InputError))
    assert "no saved memory" in str(refused(session(backbone), tmp_path / "nowhere", InputError))


def test_of_an_older_stream_it_is_said_what_was_not_compared(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    from hermes.session.config import run_config
    from hermes.session.opening import session_from

    settings = ["backbone=tiny_llava_onevision", "policy=hermes", "policy.budget=24"]
    one = session_from(run_config(settings))
    with caplog.at_level(logging.WARNING, "hermes"):
        one.resume(SAVED / "hermes")
    assert "did not note backbone.dtype" in caplog.text
    assert "backbone.weights" in caplog.text
    for other in ("memory.clock=first_layer", "memory.keep_written=true", "policy=fifo"):
        with pytest.raises(SettingError, match=other.partition("=")[0]):
            session_from(run_config([*settings, other])).resume(SAVED / "hermes")
