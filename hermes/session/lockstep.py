"""Several streams in lockstep: one decoder call for all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hermes.backbone import Backbone
from hermes.config import check
from hermes.decoding.generation import GenerationConfig
from hermes.dialogue import QuestionConfig
from hermes.errors import InputError
from hermes.memory import MemoryConfig
from hermes.policy import MemoryPolicy, check_policy, check_streams
from hermes.session.answer import Answer, Stats
from hermes.session.intake import check_time, frames_of, placed
from hermes.session.loop import Session
from hermes.session.turns import alone
from hermes.tokens import Chunk

__all__ = ["BatchedSession"]


class BatchedSession(Session):
    """Streams that advance together, each answering as it would alone.

    The memory, the policy and the observer carry a batch axis: chunks of all streams are prefilled in one
    call and compressed together. Streams keep their own clocks and rounds of questions: where their last
    rounds differ, so does their guidance, and they are observed separately. Each re-indexes at its own time.
    Their numbers of tokens stay equal, so every stream brings equally many frames of one size.

    A policy that draws random numbers afresh at each step draws others for the second stream than it would
    alone.

    Args:
        backbone: a loaded model family.
        policy: the memory policy, one for all streams.
        streams: how many.
        fps, chunk_frames, generation, memory, seed: as of :class:`~hermes.session.session.StreamSession`.

    Raises:
        SettingError: less than one stream, or more than one for a policy that takes one.

    Attributes:
        streams: what belongs to each stream alone; ``streams[i].memory`` is its part of the memory.

    >>> import numpy as np
    >>> from hermes import open_session
    >>> from hermes.parts import Recency
    >>> from hermes.policy import Tier, TieredPolicy
    >>> newest = TieredPolicy(budget=64, tiers={"all": Tier(share=1.0, scorer=Recency())})
    >>> session = BatchedSession(open_session().backbone, newest, 2, chunk_frames=8)
    >>> clips = [np.full((8, 42, 42, 3), shade, np.uint8) for shade in (0, 255)]
    >>> session.feed(clips)
    >>> [answer.frames_seen for answer in session.ask("What is happening?")]
    [8, 8]
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: MemoryPolicy,
        streams: int,
        *,
        fps: float | None = None,
        chunk_frames: int = 16,
        generation: GenerationConfig | None = None,
        memory: MemoryConfig | None = None,
        seed: int = 0,
        question: QuestionConfig | None = None,
    ) -> None:
        check(int, streams, "streams", {"ge": 1})
        check_policy(policy)
        check_streams(policy, streams)
        super().__init__(
            backbone,
            [copy.deepcopy(policy) for _ in range(streams)],
            fps=fps,
            chunk_frames=chunk_frames,
            generation=generation,
            memory=memory,
            seed=seed,
            question=question,
        )

    def feed(self, frames: Sequence[Any], *, at: float | None = None, bgr: bool = False) -> None:
        """Take in frames of every stream; whole chunks are encoded.

        Everything is looked at before anything is taken.

        Args:
            frames: a stream each, as of :meth:`hermes.StreamSession.feed`, as are ``at`` and ``bgr``.

        Raises:
            SettingError: a budget below the tokens of one frame, or a source of another rate.
            InputError: not one entry a stream, not equally many frames, frames that cannot be encoded
                together, or times that go back.
        """
        start = None if at is None else check_time(at, "at")
        self._count(frames)
        with self.turns.feeding():
            fed = [frames_of(each, self.fps, bgr=bgr) for each in frames]
            pairs = zip(self.streams, fed, strict=True)
            given = [list(placed(each, stream.end, start, self.notes)) for stream, each in pairs]
            given = self.let_in(given)
            if len({len(each) for each in given}) > 1:
                counts = ", ".join(str(len(each)) for each in given)
                raise InputError(f"streams in lockstep bring equally many frames; these bring {counts}")
            self.take(zip(*given, strict=True))

    def feed_chunk(self, chunks: Sequence[Chunk]) -> None:
        """Take in one chunk a stream, already embedded; raises SettingError as :meth:`feed`.

        Raises:
            InputError: not one chunk a stream, or chunks that differ in length or positions.
        """
        self._count(chunks)
        self.write_chunks(chunks)

    def _count(self, given: Sequence[object]) -> None:
        if len(given) != len(self.streams):
            raise InputError(f"{len(self.streams)} streams were opened, and {len(given)} were given")

    @alone
    def ask(
        self, question: str, choices: Sequence[str] = (), *, stream: int | None = None, **options: Any
    ) -> list[Answer]:
        """Answer one question now, by one stream or by all of them; the memory stays as it is.

        Args:
            question, choices, options: as of :meth:`hermes.StreamSession.ask`.
            stream: which stream is asked; all of them by default.

        Returns:
            one answer a stream that was asked.

        Raises:
            InputError: no such stream, or what :meth:`hermes.StreamSession.ask` refuses.
        """
        if stream is not None and not 0 <= stream < len(self.streams):
            raise InputError(f"stream {stream}: there are streams 0 to {len(self.streams) - 1}")
        given = (options.get("correct"), options.get("ids"), options.get("lead", ""))
        self.check_question(question, choices, *given)
        self.flush()
        asked = self.streams if stream is None else [self.streams[stream]]
        return [self.answer(one, question, choices, **options) for one in asked]

    @alone
    def stats(self) -> list[Stats]:
        """What was done so far and what is held, a stream each; times are those of the common calls."""
        return [stream.stats() for stream in self.streams]
