"""One video streamed once, each of its questions asked when its time has come."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from hermes.data.clips import Clip, TimedQuestion
from hermes.dialogue import Round
from hermes.errors import InputError, SettingError
from hermes.evaluation.results.journal import Broken, Journal, Shown
from hermes.evaluation.results.rows import AnswerRow
from hermes.evaluation.running.live_clock import LiveClock
from hermes.evaluation.running.settings import EvalConfig
from hermes.files import WriteError
from hermes.session.session import StreamSession
from hermes.video import Frame, Link

__all__ = ["Asking", "ask_clip", "askings", "askings_of"]

# How a video fails that is damaged, gone, or too large for the machine.
_FAULTS = (InputError, OSError, MemoryError)
# What would be as wrong for every other video.
_OF_ALL = (SettingError, WriteError)


class _BrokenVideoError(InputError):
    """A video that cannot be read; the questions about others can be asked."""


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


def askings_of(config: EvalConfig, index: int) -> list[Asking]:
    """What is asked of video number ``index``, in order of time (see :func:`askings`)."""
    clip = config.data.clip(index)
    held = [config.data.holds(index, question) if config.delays else None for question in clip.questions]
    return askings(clip, held, config.delays)


def ask_clip(
    session: StreamSession,
    config: EvalConfig,
    index: int,
    journal: Journal,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Stream video number ``index`` and ask what the journal has no answer to yet.

    Every question sees the frames before its time alone, and the rounds before it, be they answered now or in
    an earlier run. A video that cannot be read, and a question that cannot be asked, cost no other one: the
    journal tells them (:class:`.Broken`).

    Args:
        session: that answers.
        config: everything.
        index: of the video.
        journal: of the run.
        tick: called after each question that had no answer before.

    Raises:
        SettingError: a wrong setting.
    """
    clip, asked = config.data.clip(index), askings_of(config, index)
    answered = all((index, a.number, a.delay) in journal.rows for a in asked if not a.delay)
    if not asked or (answered and index in journal.shown):
        return
    # Every video its own random numbers, whichever were streamed before.
    seed = int(np.random.SeedSequence((config.seed, index)).generate_state(1)[0])
    session.seed = seed
    session.reset()
    shown = Shown(index, clip.video or clip.id, session.fps)
    one = _Clip(session, config, index, clip, journal, LiveClock(), shown, tick)
    why = ""
    try:
        one.ask(asked, seed)
    except _BrokenVideoError as error:
        # The video's own name says where; the journal has it apart.
        why = str(error).removeprefix(f"{shown.video}: ") or type(error.__cause__).__name__
    places = [(index, asking.number, asking.delay) for asking in asked[one.passed :]]
    rest = sum(place not in journal.rows for place in places)
    if rest or one.lost:
        journal.lose(Broken(index, shown.video, rest + len(one.lost), why or one.lost[0]))
        for _ in range(rest):
            tick()
    elif one.passed == len(asked):
        journal.finish(shown)


@dataclass
class _Clip:
    """A video while it is streamed: ``passed`` of its questions have come; ``lost`` says why some failed."""

    session: StreamSession
    config: EvalConfig
    index: int
    clip: Clip
    journal: Journal
    clock: LiveClock
    shown: Shown
    tick: Callable[[], None]
    passed: int = 0
    lost: list[str] = field(default_factory=list)

    def ask(self, asked: Sequence[Asking], seed: int) -> None:
        """Stream the video, and ask each question when its time has come."""
        session, clock, shown = self.session, self.clock, self.shown
        due = [asking for asking in asked if asking.question.time is not None]
        rest = [asking for asking in asked if asking.question.time is None]
        times = [asking.question.time or 0.0 for asking in due]
        with (
            _opened(self.config, self.index, session.fps) as frames,
            clock.watching(session),
            closing(_counted(frames, self.config, seed, shown)) as arriving,
        ):
            watching = session.watch(arriving, times)
            for asking, time in zip(due, times, strict=True):
                clock.question = time
                # One step at a time, so that nothing is read beyond what the last one needs.
                next(watching)
                # A video may have ended earlier than its annotations say.
                over = bool(asking.delay) and shown.over and time > shown.end + 1e-6
                self._pass(asking, over=over)
            if rest:
                clock.question = None
                for _ in watching:
                    pass
            for asking in rest:
                self._pass(asking)

    def _pass(self, asking: Asking, *, over: bool = False) -> None:
        """A question's time has come; nothing is asked where its video is over."""
        done = self.journal.rows.get((self.index, asking.number, asking.delay))
        if done is None and not over:
            _answer(self, asking)
        self.passed += 1
        if done is None:
            self.tick()
        elif done.frames_seen:
            # What follows may depend on the rounds before; without a frame there was none.
            said, question = done.choice or done.answer, asking.question
            self.session.context.remember(Round(question.question, said, question.choices))


def _answer(one: _Clip, asking: Asking) -> None:
    session, question, place = one.session, asking.question, (one.index, asking.number)
    if session.frames_seen == 0 and one.config.link != Link():
        # Nothing has arrived: there is nothing to answer from.
        row = AnswerRow.unanswered(place, one.clip, question, session.now, delay=asking.delay)
    else:
        # Words alone do not tell whether an open-ended answer is right.
        correct = None if question.open_ended else question.answer or None
        try:
            answer = session.ask(question.question, question.choices, correct=correct, lead=question.lead)
        except _OF_ALL:
            raise
        except InputError as error:
            one.lost.append(f"{_when(question)}: {error}")
            return
        row = AnswerRow.of(place, one.clip, question, answer, delay=asking.delay)
        row = replace(row, lag_s=one.clock.lag, stale_s=one.clock.stale)
    one.journal.add(row)


@contextmanager
def _opened(config: EvalConfig, index: int, fps: float) -> Iterator[Iterator[Frame]]:
    """The frames of a video; what goes wrong with them is a fault of the video."""
    with ExitStack() as stack:
        with _telling():
            frames = stack.enter_context(config.data.frames(index, config.video, fps))
        yield _told(frames)


def _told(frames: Iterable[Frame]) -> Iterator[Frame]:
    with _telling():
        yield from frames


@contextmanager
def _telling() -> Iterator[None]:
    try:
        yield
    except _OF_ALL:
        raise
    except _FAULTS as error:
        raise _BrokenVideoError(str(error)) from error


def _counted(
    frames: Iterator[Frame], config: EvalConfig, seed: int, shown: Shown
) -> Generator[Frame, None, None]:
    """The frames that arrive, noted once they have been taken."""
    sampled = shown.passing(frames)
    for frame in config.link.carry(sampled, seed):
        yield frame
        shown.add(frame)


def _when(question: TimedQuestion) -> str:
    return "question at the end" if question.time is None else f"question at {question.time:g} s"
