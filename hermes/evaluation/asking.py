"""One video streamed once, each of its questions asked when its time has come."""

from __future__ import annotations

import numpy as np

from hermes.data.annotations import Clip, TimedQuestion
from hermes.errors import InputError
from hermes.evaluation.rows import Journal, Row
from hermes.evaluation.settings import EvalConfig
from hermes.prompts import Turn
from hermes.session import StreamSession

__all__ = ["ask_clip"]


def ask_clip(session: StreamSession, config: EvalConfig, index: int, journal: Journal) -> None:
    """Stream video number ``index`` and ask what the journal has no answer to yet.

    Source: this project. Every question sees the frames before its time alone, and the rounds before it, be
    they answered now or in an earlier run.

    Raises:
        InputError: a question that cannot be asked, or a video that cannot be read.
    """
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
    # Words alone do not tell whether an open-ended answer is right.
    correct = None if question.open_ended else question.answer or None
    try:
        answer = session.ask(question.question, question.choices, correct=correct)
    except InputError as error:
        raise InputError(f"{_where(clip, question)}: {error}") from error
    journal.add(Row.of(place, clip, question, answer))


def _where(clip: Clip, question: TimedQuestion) -> str:
    time = "the end" if question.time is None else f"{question.time:g} s"
    return f"{clip.video or clip.id}, question at {time}"
