"""Parity with recorded outputs of the official release: every case found under ``pytest --oracle DIR``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from hermes.backbone import Backbone
from hermes.decoding.generation import GenerationConfig
from hermes.dialogue import PROMPT_KINDS, Round
from hermes.policies.hermes_release import HermesRelease
from hermes.session.session import StreamSession
from tests.support.families import make_frames
from tests.support.oracle_cases import Case, RecordedPrompts, replay
from tests.support.oracle_derived import mid_stream, plain_answer
from tests.support.references import tiny
from tests.support.tolerances import close

# Recorded with a memory for each of its chunks, and two questions after the last.
each_source = pytest.mark.parametrize("source", ["llava_lazy", "qwen_lazy"])


def test_oracle_case(
    oracle_case: Path, oracle_backbones: Mapping[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    replay(Case(oracle_case, oracle_backbones), monkeypatch)


@each_source
def test_question_between_chunks(
    source: str,
    oracle: Path,
    oracle_backbones: Mapping[str, Backbone],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = mid_stream(_recorded(oracle, source), tmp_path / source, oracle_backbones)
    assert {question["after_chunk"] for question in case.meta["questions"]} == set(range(len(case.steps)))
    replay(case, monkeypatch)


@each_source
def test_plain_answers_are_the_recorded_ones(
    source: str, oracle: Path, oracle_backbones: Mapping[str, Backbone]
) -> None:
    case = Case(_recorded(oracle, source), oracle_backbones)
    for question in case.meta["questions"]:
        key = f"q{question['index']:02d}"
        logits, answer = plain_answer(case, question["after_chunk"], case.tensor(f"{key}.prompt_ids"))
        close("oracle_kv", logits, case.tensor(f"{key}.logits"))
        assert answer == case.tensor(f"{key}.answer_ids").tolist()


def _recorded(oracle: Path, name: str) -> Path:
    folder = oracle / "cases" / name
    if not folder.is_dir():
        pytest.skip(f"no case {name}")
    return folder


def test_prompts_after_a_question_stand_for_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    session, encoded = _asked(monkeypatch)
    assert set(encoded) == {f"{kind} prompt of step 1" for kind in ("mixed", "global")}
    # The next question takes the place of the first.
    first, second = session.context.history[0], _question(session, "And now?")
    session.policy.prompts = RecordedPrompts(step=2, last=second)  # type: ignore[attr-defined]
    session.feed(make_frames(2))
    session.policy.prompts = RecordedPrompts(step=2, last=first)  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="last round"):
        session.feed(make_frames(2))


def test_a_forgotten_round_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    session, _ = _asked(monkeypatch)
    session.context.history.clear()
    with pytest.raises(AssertionError, match="last round"):
        session.feed(make_frames(2))


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_a_round_that_was_not_asked_is_noticed(kind: str) -> None:
    with pytest.raises(AssertionError, match="last round"):
        RecordedPrompts().render(kind, Round("What now?", "a cat"))


def _asked(monkeypatch: pytest.MonkeyPatch) -> tuple[StreamSession, list[str]]:
    """A session after a chunk, a question and another chunk, and the texts encoded for the second."""
    backbone, encoded = tiny("llava_onevision"), list[str]()
    policy = HermesRelease(budget=40, prompts=RecordedPrompts(step=0))
    generation = GenerationConfig(max_new_tokens=4)
    session = StreamSession(backbone, policy, chunk_frames=2, generation=generation)
    session.write_prefix()
    names = [RecordedPrompts(step=step).name(kind) for step in range(3) for kind in PROMPT_KINDS]
    ids = {name: torch.arange(n, n + 5)[None] for n, name in enumerate(names)}

    def encode(text: str) -> torch.Tensor:
        encoded.append(text)
        return ids[text]

    monkeypatch.setattr(backbone, "encode", encode)
    session.feed(make_frames(2))
    policy.prompts = RecordedPrompts(step=1, last=_question(session, "What is there?"))
    encoded.clear()
    session.feed(make_frames(2))
    return session, encoded


def _question(session: StreamSession, text: str) -> Round:
    answer = session.ask(text, ids=torch.arange(8)[None])
    return Round(text, answer.answer)
