"""One video streamed once, each of its questions asked when its time has come."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hermes.data.clips import Clip, TimedQuestion
from hermes.dialogue import Round
from hermes.errors import InputError
from hermes.evaluation.results.journal import Journal, Shown
from hermes.evaluation.results.rows import AnswerRow
from hermes.evaluation.running.live_clock import LiveClock
from hermes.evaluation.running.settings import EvalConfig
from hermes.session.session import StreamSession
from hermes.video import Frame, Link

__all__ = ["Asking", "ask_clip", "askings"]


class Asking(NamedTuple):
    """A question of a clip, at its own time or some seconds later.

    Attributes:
        number: of the question in the clip.
        question: with the time at which it is asked now.
        delay: seconds after its own time.
    """

    number: int
    question: TimedQuestion
    delay: float = 0.0


def askings(clip: Clip, held: Sequence[float | None], delays: Sequence[float]) -> list[Asking]:
    """What is asked of a clip, in order of time; what is asked at the end comes last.

    Args:
        clip: with its questions.
        held: of each question, until when its answer stays right (s); None: not known, and not asked again.
        delays: seconds after which questions are asked again, as long as the answer is right and the clip
            goes on.
    """
    out = [Asking(number, question) for number, question in enumerate(clip.questions)]
    end = min(math.inf if t is None else t for t in (clip.duration, clip.end))
    for delay in delays:
        for number, (question, until) in enumerate(zip(clip.questions, held, strict=True)):
            if question.time is None or until is None:
                continue
            time = question.time + delay
            if time < until and time <= end:
                again = replace(question, time=time)
                out.append(Asking(number, again, delay))
    return sorted(out, key=lambda asking: math.inf if asking.question.time is None else asking.question.time)


def ask_clip(session: StreamSession, config: EvalConfig, index: int, journal: Journal) -> None:
    """Stream video number ``index`` and ask what the journal has no answer to yet.

    Every question sees the frames before its time alone, and the rounds before it, be they answered now or in
    an earlier run.

    Raises:
        InputError: a question that cannot be asked, or a video that cannot be read.
    """
    clip = config.data.clip(index)
    held = [config.data.holds(index, question) if config.delays else None for question in clip.questions]
    asked = askings(clip, held, config.delays)
    answered = all((index, a.number, a.delay) in journal.rows for a in asked if not a.delay)
    if not asked or (answered and index in journal.shown):
        return
    # Every video its own random numbers, whichever were streamed before.
    seed = int(np.random.SeedSequence((config.seed, index)).generate_state(1)[0])
    session.seed = seed
    session.reset()
    due = [asking for asking in asked if asking.question.time is not None]
    rest = [asking for asking in asked if asking.question.time is None]
    times = [asking.question.time or 0.0 for asking in due]
    shown = Shown(index, clip.video or clip.id, session.fps)
    clock, lossy = LiveClock(), config.link != Link()
    with (
        config.data.frames(index, config.video, session.fps) as frames,
        clock.watching(session),
        closing(_counted(frames, config, seed, shown)) as arriving,
    ):
        watching = session.watch(arriving, times)
        for asking, time in zip(due, times, strict=True):
            clock.question = time
            # One step at a time, so that nothing is read beyond what the last one needs.
            next(watching)
            if asking.delay and shown.over and time > shown.end + 1e-6:
                # The video has ended, which its annotations do not say.
                continue
            _answer(session, index, clip, asking, clock, journal, lossy=lossy)
        if rest:
            clock.question = None
            for _ in watching:
                pass
        for asking in rest:
            _answer(session, index, clip, asking, clock, journal, lossy=lossy)
    journal.finish(shown)


def _counted(
    frames: Iterator[Frame], config: EvalConfig, seed: int, shown: Shown
) -> Generator[Frame, None, None]:
    """The frames that arrive, noted once they have been taken."""
    sampled = shown.passing(frames)
    for frame in config.link.carry(sampled, seed):
        yield frame
        shown.add(frame)


def _answer(
    session: StreamSession,
    index: int,
    clip: Clip,
    asking: Asking,
    clock: LiveClock,
    journal: Journal,
    *,
    lossy: bool,
) -> None:
    question, place = asking.question, (index, asking.number)
    done = journal.rows.get((*place, asking.delay))
    if done is not None:
        if done.frames_seen:
            # What follows may depend on the rounds before; without a frame there was none.
            said = done.choice or done.answer
            session.context.remember(Round(question.question, said, question.choices))
        return
    if session.frames_seen == 0 and lossy:
        # Nothing has arrived: there is nothing to answer from.
        journal.add(AnswerRow.unanswered(place, clip, question, session.now, delay=asking.delay))
        return
    # Words alone do not tell whether an open-ended answer is right.
    correct = None if question.open_ended else question.answer or None
    try:
        answer = session.ask(question.question, question.choices, correct=correct)
    except InputError as error:
        raise InputError(f"{_where(clip, question)}: {error}") from error
    row = AnswerRow.of(place, clip, question, answer, delay=asking.delay)
    journal.add(replace(row, lag_s=clock.lag, stale_s=clock.stale))


def _where(clip: Clip, question: TimedQuestion) -> str:
    time = "the end" if question.time is None else f"{question.time:g} s"
    return f"{clip.video or clip.id}, question at {time}"
