"""Several streams in lockstep: one decoder call for all of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hermes.attention import memory_attention_set
from hermes.backbone import Backbone
from hermes.decoding.generation import GenerationConfig
from hermes.decoding.observer import DecoderObserver
from hermes.decoding.prefill import prefill
from hermes.errors import InputError, SettingError
from hermes.memory import KVMemory, MemoryConfig, join_updates
from hermes.policy import MemoryPolicy, check_budget, check_streams
from hermes.session.answer import Answer
from hermes.session.session import StreamSession
from hermes.tokens import Chunk, stack_chunks
from hermes.video import Frame


class BatchedSession:
    """Streams that advance together, each answering as it would alone.

    Source: this project. The memory, the policy and the observer carry a batch axis: chunks of all streams
    are prefilled in one call and compressed together. Streams keep their own clocks and rounds of questions:
    where their last rounds differ, so does their guidance, and they are observed separately. Each re-indexes
    at its own time. Their numbers of tokens stay equal, so every stream brings equally many frames of one
    size.

    A policy that draws random numbers afresh at each step draws others for the second stream than it would
    alone.

    Args:
        backbone: a loaded model family.
        policy: the memory policy, one for all streams.
        streams: how many.
        fps, chunk_frames, generation, memory, seed: as of :class:`StreamSession`.

    Raises:
        SettingError: less than one stream, or more than one for a policy that takes one.

    Attributes:
        streams: one session a stream, which holds everything of it but the memory.

    >>> import numpy as np
    >>> from hermes import open_session
    >>> from hermes.video import open_source
    >>> from hermes.policies.fifo import Fifo
    >>> session = BatchedSession(open_session().backbone, Fifo(budget=64), 2, chunk_frames=8)
    >>> clips = [list(open_source(np.full((8, 42, 42, 3), shade, np.uint8), fps=24)) for shade in (0, 255)]
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
    ) -> None:
        if streams < 1:
            raise SettingError("streams", streams, "an integer of at least 1")
        check_streams(policy, streams)
        self.backbone = backbone
        self.streams = [
            StreamSession(
                backbone,
                copy.deepcopy(policy),
                fps=fps,
                chunk_frames=chunk_frames,
                generation=generation,
                memory=memory,
                seed=seed,
            )
            for _ in range(streams)
        ]
        self.first = self.streams[0]
        self.policy = self.first.policy
        self.memory = self.first.memory
        self._outer: Any = None

    def __enter__(self) -> BatchedSession:
        self._outer = memory_attention_set(self.backbone.model)
        self._outer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        outer, self._outer = self._outer, None
        if outer is not None:
            outer.__exit__(None, None, None)

    def feed(self, frames: Sequence[Iterable[Frame]]) -> None:
        """Take in frames of every stream; whole chunks are encoded.

        Raises:
            InputError: not one iterable a stream, or not equally many frames.
        """
        given = [list(each) for each in frames]
        self._count(given)
        if len({len(each) for each in given}) > 1:
            counts = ", ".join(str(len(each)) for each in given)
            raise InputError(f"streams in lockstep bring equally many frames; these bring {counts}")
        for step in zip(*given, strict=True):
            for stream, frame in zip(self.streams, step, strict=True):
                stream.waiting.append(frame)
                stream.now = frame.time + 1 / stream.fps
            if len(self.first.waiting) >= self.first.chunk_frames:
                self.flush()

    def flush(self) -> None:
        """Encode the frames that wait for their chunk to fill.

        Raises:
            InputError: the policy admits frames of some streams only.
        """
        if not self.first.waiting:
            return
        self._begin()
        chunks = []
        for stream in self.streams:
            frames = stream.policy.admit(stream.waiting)
            chunks.append(self.backbone.video(frames, stream.video, fps=stream.fps) if frames else None)
        encoded = [chunk for chunk in chunks if chunk is not None]
        if len(encoded) not in (0, len(chunks)):
            raise InputError("the policy admitted frames of some streams only: they cannot go in lockstep")
        for stream in self.streams:
            stream.frames_seen += len(stream.waiting)
            stream.waiting = []
        if encoded:
            self._write(encoded)

    def feed_chunk(self, chunks: Sequence[Chunk]) -> None:
        """Take in one chunk a stream, already embedded."""
        self._count(chunks)
        self._begin()
        for stream, chunk in zip(self.streams, chunks, strict=True):
            stream.frames_seen += chunk.frames
            stream.now += chunk.frames / stream.fps
        self._write(chunks)

    def _count(self, given: Sequence[object]) -> None:
        if len(given) != len(self.streams):
            raise InputError(f"{len(self.streams)} streams were opened, and {len(given)} were given")

    def _begin(self) -> None:
        if self.memory.prefix == 0:
            prefixes = [self.backbone.prefix(stream.video) for stream in self.streams]
            self._prefill(stack_chunks(prefixes), prefix=True)

    def _write(self, chunks: Sequence[Chunk]) -> None:
        if all(stream.context.extent == 0 for stream in self.streams):
            check_budget(self.policy, chunks[0])
        chunk = stack_chunks(
            [stream.policy.reduce(chunk) for stream, chunk in zip(self.streams, chunks, strict=True)]
        )
        self._prefill(chunk)
        for stream in self.streams:
            stream.context.extent = chunk.advance
        self._compress()

    def _prefill(self, chunk: Chunk, *, prefix: bool = False) -> None:
        if prefix:
            prefill(self.backbone, self.memory, chunk, prefix=True)
        else:
            self.first.execution.prefill(self.memory, chunk, probe=self.policy.watch())

    @torch.no_grad()
    def _compress(self) -> None:
        rounds: dict[str, list[int]] = {}
        for index, stream in enumerate(self.streams):
            rounds.setdefault(repr(stream.context.history[-1:]), []).append(index)
        groups = list(rounds.values())
        if len(groups) == 1:
            run, observer = self.first.execution, self.first.observer
            if run.records(self.policy, self.memory) and run.compress(
                self.policy, self.memory, observer, compact=self._due(True)
            ):
                return
            updates = self.policy.compress(self.memory, self.first.observer)
        elif self.policy.watch() is not None:
            raise InputError(
                "a policy that follows the chunks' attention keeps one state for all streams of a batch: "
                "ask all of them the same questions"
            )
        else:
            parts = []
            for group in groups:
                memory = self.memory.select(group)
                policy = self.streams[group[0]].policy
                parts.append(policy.compress(memory, DecoderObserver(self.backbone, memory)))
            updates = join_updates(parts, groups)
        self.memory.apply(updates, compact=self._due(bool(updates)))

    def _due(self, compressing: bool) -> bool | Tensor:
        """Which streams re-index now; each goes by its own positions."""
        context, reindex = self.first.context, self.policy.reindexing

        def due(memory: KVMemory) -> bool:
            return reindex.due(
                memory, compressing=compressing, max_position=context.max_position, extent=context.extent
            )

        if not due(self.memory):
            return False
        each = [due(self.memory.select([index])) for index in range(len(self.streams))]
        return all(each) or torch.tensor(each)

    def ask(
        self, question: str, choices: Sequence[str] = (), *, stream: int | None = None, **options: Any
    ) -> list[Answer]:
        """Answer one question now, by one stream or by all of them; the memory stays as it is.

        Args:
            question, choices, options: as of :meth:`StreamSession.ask`.
            stream: which stream is asked; all of them by default.

        Returns:
            one answer a stream that was asked.

        Raises:
            InputError: no such stream, or what :meth:`StreamSession.ask` refuses.
        """
        if stream is not None and not 0 <= stream < len(self.streams):
            raise InputError(f"stream {stream}: there are streams 0 to {len(self.streams) - 1}")
        self.flush()
        asked = range(len(self.streams)) if stream is None else [stream]
        answers = []
        for index in asked:
            session = self.streams[index]
            session.memory, kept = self.memory.select([index]), session.memory
            try:
                answers.append(session.ask(question, choices, **options))
            finally:
                session.memory = kept
        return answers
