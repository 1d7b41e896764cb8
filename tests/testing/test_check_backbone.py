"""Every family keeps the contract of a backbone, and each clause finds what is planted against it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers

from hermes.backbone import Backbone, load_backbone
from hermes.errors import SettingError
from hermes.testing import BACKBONE_CLAUSES, ContractError, check_backbone, examine_backbone
from hermes.testing.backbone_trial import BackboneTrial
from hermes.tokens import Chunk, Provenance, VideoState
from tests.support.families import FAMILIES, tiny
from tests.support.tiny_models import TINY, tiny_model
from tests.support.tiny_qwen2_vl import tiny_qwen2_vl
from tests.support.tiny_qwen3_5 import tiny_hybrid
from tests.support.tiny_windowed import tiny_windowed

pytestmark = pytest.mark.model

BACKBONES: dict[str, Callable[[], Backbone]] = {
    **{name: lambda name=name: tiny(name) for name in FAMILIES},  # type: ignore[misc]
    **{name: lambda name=name: tiny_model(name) for name in TINY},  # type: ignore[misc]
    "qwen2_vl": tiny_qwen2_vl,
    "qwen3_5": tiny_hybrid,
    "qwen3_5_moe": lambda: tiny_hybrid(experts=True),
    "windowed": tiny_windowed,
    "tiny_text": lambda: load_backbone("tiny_text"),
}
# What cannot be compared here, beside pixels, for which transformers needs torchvision.
SKIPPED = {
    "video_llama_3": {"prompt_is_the_processors", "answers_are_the_models"},
    "tiny_text": {"prompt_is_the_processors", "answers_are_the_models"},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_family_keeps_the_contract(name: str) -> None:
    if name == "smolvlm":
        pytest.importorskip("num2words")
    findings = check_backbone(BACKBONES[name]())
    skipped = {finding.clause for finding in findings if finding.outcome == "skipped"}
    assert skipped - {"pixels_are_the_processors"} == SKIPPED.get(name, set())
    assert all(finding.why for finding in findings if finding.outcome == "skipped")
    assert [finding.clause for finding in findings] == [clause.__name__ for clause in BACKBONE_CLAUSES]


Video = Callable[..., Chunk]


def changed(change: Callable[[Chunk, VideoState], Chunk]) -> Callable[[Any], None]:
    """A fault in what ``video`` gives."""

    def plant(backbone: Any) -> None:
        inner: Video = backbone.video

        def video(frames: Any, state: VideoState, *, fps: float) -> Chunk:
            return change(inner(frames, state, fps=fps), state)

        backbone.video = video

    return plant


def _late(chunk: Chunk, state: VideoState) -> Chunk:
    table = chunk.tokens.table.clone()
    table[0] += 1
    return replace(chunk, tokens=Provenance(table))


def _cut(chunk: Chunk, state: VideoState) -> Chunk:
    # The first frame of a chunk looks otherwise.
    embeds = chunk.embeds.clone()
    embeds[:, :4] *= 1.5
    return replace(chunk, embeds=embeds)


def _wide(chunk: Chunk, state: VideoState) -> Chunk:
    return replace(chunk, positions=2 * chunk.positions, advance=2 * chunk.advance)


def _loud(chunk: Chunk, state: VideoState) -> Chunk:
    if chunk.embeds.dtype == torch.float32:
        return chunk
    return replace(chunk, embeds=chunk.embeds * float("inf"))


def _remembers(backbone: Any) -> None:
    calls = itertools.count()
    changed(lambda chunk, state: replace(chunk, embeds=chunk.embeds * (1 + next(calls))))(backbone)


def _rotation(backbone: Any) -> None:
    rotary = backbone.rotary
    vars(backbone)["rotary"] = replace(rotary, frequencies=1.02 * rotary.frequencies)


def _question(backbone: Any) -> None:
    inner, calls = backbone.question_ids, itertools.count()
    backbone.question_ids = lambda *given: inner(*given).roll(next(calls), dims=1)


def _leaves(backbone: Any) -> None:
    def leave(chunk: Chunk, state: VideoState) -> Chunk:
        backbone.model.model.seen = True
        return chunk

    changed(leave)(backbone)


FAULTS: dict[str, Callable[[Any], None]] = {
    "provenance_covers_every_token": changed(_late),
    "chunks_are_the_whole": changed(_cut),
    "answers_are_the_models": changed(_wide),
    "attention_is_the_decoders": _rotation,
    "sessions_share_the_model": _remembers,
    "numbers_are_finite_in_half_precision": changed(_loud),
    "streams_fork_and_go_on": _question,
    "model_is_left_as_found": _leaves,
}


@pytest.mark.parametrize("clause", FAULTS)
def test_a_planted_fault_is_found(clause: str) -> None:
    backbone = copy.copy(tiny("qwen2_5_vl"))
    backbone.checked = True
    FAULTS[clause](backbone)
    try:
        with pytest.raises(ContractError, match=rf"(?m)^{clause}: \S"):
            check_backbone(backbone)
    finally:
        vars(backbone.model.model).pop("seen", None)


def test_a_prompt_that_is_not_the_processors_is_found() -> None:
    backbone: Any = copy.copy(tiny("qwen2_5_vl"))
    inner = backbone.question_ids
    backbone.question_ids = lambda *given: inner(*given).roll(1, dims=1)
    broken = {f.clause: f.why for f in examine_backbone(backbone) if f.outcome == "broken"}
    assert "question_text" in broken["prompt_is_the_processors"]
    backbone = copy.copy(tiny("qwen3_vl"))
    changed(_cut)(backbone)
    broken = {f.clause: f.why for f in examine_backbone(backbone) if f.outcome == "broken"}
    assert "written around frames" in broken["prompt_is_the_processors"]


@pytest.mark.parametrize("brighter", [0.0, 0.2])
@pytest.mark.skipif(transformers.__version__.startswith("5.17."), reason="5.17 encodes by other keywords")
def test_pixels_are_compared_with_a_processors(brighter: float) -> None:
    backbone = tiny("llava_onevision")
    trial = BackboneTrial(backbone)
    with trial.encoding() as calls:
        backbone.video(trial.frames(), VideoState(), fps=2.0)
    pixels = calls[0]["pixel_values_videos"] + brighter
    known: Any = trial._processor

    class Processor:
        video_token = known.video_token
        replace_video_token = staticmethod(known.replace_video_token)
        video_processor = staticmethod(lambda **given: {"pixel_values_videos": pixels})

    found = {f.clause: f for f in examine_backbone(backbone, Processor())}
    finding = found["pixels_are_the_processors"]
    assert finding.outcome == ("broken" if brighter else "kept")
    assert ("Backbone.recipe" in finding.why) == bool(brighter)


def test_what_is_no_backbone_is_refused() -> None:
    with pytest.raises(SettingError, match="load_backbone"):
        check_backbone(SimpleNamespace())  # type: ignore[arg-type]
