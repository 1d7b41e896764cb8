"""One stream: the frames that wait, its clock, its policy, and what was done with it so far."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from hermes.backbone import Backbone
from hermes.dialogue import QuestionConfig, guiding_round
from hermes.machine.device import Stopwatch
from hermes.memory import KVMemory
from hermes.policy import MemoryPolicy, StreamContext, wrong_result
from hermes.session.answer import Stats
from hermes.session.intake import Door, Notes
from hermes.tokens import Chunk, VideoState
from hermes.video import Frame

__all__ = ["Stream", "all_or_nothing"]


class Stream:
    """What a session knows of one stream, beside the tensors of its memory.

    A :class:`~hermes.session.session.StreamSession` has one; streams in lockstep have one each and share a
    memory with a batch axis.

    Args:
        backbone: a loaded model family.
        policy: the memory policy of this stream alone; the stream starts it.
        fps: sampling rate of its frames.
        seed: of the policy's random numbers and of sampling.
        notes: for what is to be said once.
        entry: its entry of the memory's batch axis; None where it has the memory for itself.
        limits: of questions; the defaults if not given.

    Attributes:
        held: the memory that it writes into, alone or with others.
        context: what the policy may know of the stream.
        video: what the backbone remembers between chunks.
        door: looks at each frame before it waits.
        waiting: frames that wait for their chunk to fill.
        written: video tokens that the memory was given; None where that is not known.
        frames_seen: frames that have left ``waiting``, whether the policy took them or not.
        now: seconds of the stream that have passed.
        encoding, compressing: clocks of the work done, shared by streams in lockstep.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: MemoryPolicy,
        *,
        fps: float,
        seed: int,
        notes: Notes,
        entry: int | None = None,
        limits: QuestionConfig | None = None,
    ) -> None:
        self.backbone = backbone
        self.policy = policy
        self.fps = fps
        self.seed = seed
        self.notes = notes
        self.entry = entry
        self.limits = limits or QuestionConfig()

    def beside(self, policy: MemoryPolicy) -> Stream:
        """A stream with the same settings, but a policy of its own; it has not begun."""
        return Stream(
            self.backbone,
            policy,
            fps=self.fps,
            seed=self.seed,
            notes=self.notes,
            entry=self.entry,
            limits=self.limits,
        )

    def start(self, held: KVMemory, encoding: Stopwatch, compressing: Stopwatch) -> None:
        """Begin a stream over this memory, on these clocks, and forget the one before."""
        backbone = self.backbone
        # Not a method of the stream: a policy that outlives it would hold its memory.
        guiding = functools.partial(guiding_round, most=self.limits.guiding_tokens, count=backbone.count)
        self.held = held
        self.encoding, self.compressing = encoding, compressing
        self.video = VideoState()
        self.context = StreamContext(
            num_layers=backbone.num_layers,
            num_kv_heads=backbone.num_kv_heads,
            max_position=backbone.max_position,
            generator=torch.Generator().manual_seed(self.seed),
            tokens_per_frame=backbone.tokens_per_frame,
            axes=backbone.axes,
            frames_per_group=backbone.frames_per_group,
            template_tail=backbone.template_parts.after,
            remembered=self.limits.history_rounds,
            guiding=functools.lru_cache(maxsize=1)(guiding),
        )
        self.policy.start(self.context)
        self.door = Door(self.fps, backbone.tokens_per_frame, self.notes, backbone.sees)
        self.waiting: list[Frame] = []
        # Of the frames that wait, how many were offered to the policy, and those it took.
        self._offered, self._admitted = 0, list[Frame]()
        self.frames_seen = self.chunks = self.questions = 0
        self.written: int | None = 0
        self.now = 0.0

    @property
    def memory(self) -> KVMemory:
        """The stream's own part of the memory."""
        return self.held if self.entry is None else self.held.select([self.entry])

    @property
    def end(self) -> float:
        """Seconds at which the next clip may begin; 0 before the first."""
        return max(self.now, self.door.time + 1 / self.fps, 0.0)

    def take(self, frame: Frame) -> None:
        """Let a frame that came through the door wait for its chunk."""
        self.waiting.append(frame)
        self.now = max(self.now, frame.time + 1 / self.fps)

    def count(self, chunk: Chunk) -> None:
        """Count the frames of a chunk that came in embedded."""
        self.frames_seen += chunk.frames
        self.now += chunk.frames / self.fps
        newest = int(chunk.tokens.frame.amax()) if len(chunk) else -1
        self.door.pass_by(self.now - 1 / self.fps, newest)

    def say_if_whole(self) -> None:
        """Say so where nothing was evicted: then a policy shows nothing of itself."""
        held = {layer.video_length for layer in self.held}
        if self.written and held == {self.written} and self.policy.bound == "bounded":
            self.notes.say(
                "whole",
                f"nothing was evicted: all {self.written} video tokens fit under the budget of "
                f"{self.policy.budget} (policy.budget); a budget below {self.written} would evict",
            )

    def go_on(self) -> None:
        """Let nothing in that a stream taken up again has seen already."""
        self.written = None
        if self.frames_seen:
            seen = [layer.origin.frame.amax() for layer in self.held if layer.length]
            self.door.pass_by(self.now - 1 / self.fps, max(self.frames_seen - 1, *map(int, seen)))

    def admitted(self) -> Sequence[Frame]:
        """Those of the waiting frames that the policy takes; each frame is offered to it once."""
        if new := self.waiting[self._offered :]:
            self._offered = len(self.waiting)
            admitted = self.policy.admit(new)
            if not isinstance(admitted, Sequence) or not all(isinstance(one, Frame) for one in admitted):
                raise wrong_result(self.policy, "admit", admitted, "a list of those frames that it takes")
            self._admitted = [*self._admitted, *admitted]
        return self._admitted

    def reduce(self, chunk: Chunk) -> Chunk:
        """What of a chunk the policy lets the decoder read."""
        reduced = self.policy.reduce(chunk)
        if not isinstance(reduced, Chunk):
            raise wrong_result(self.policy, "reduce", reduced, "a Chunk, such as chunk.select(slots)")
        return reduced

    def forget_waiting(self) -> None:
        """Let no frame wait any longer."""
        self.waiting, self._admitted, self._offered = [], [], 0

    def stats(self) -> Stats:
        """What was done so far, and what the memory holds."""
        memory = self.memory
        return Stats(
            frames=self.frames_seen,
            chunks=self.chunks,
            questions=self.questions,
            encode_ms=self.encoding.ms,
            compress_ms=self.compressing.ms,
            tokens_per_layer=memory.lengths,
            memory_bytes=memory.memory_bytes + self.policy.resident_bytes,
            archived_bytes=self.policy.archived_bytes,
            bytes_by_kind=memory.bytes_by_kind(),
        )


@contextmanager
def all_or_nothing(streams: Sequence[Stream]) -> Iterator[None]:
    """After an exception, or an interruption, policies and video states are as they were."""
    before = [(copy.copy(stream.video), dict(vars(stream.policy))) for stream in streams]
    try:
        yield
    except BaseException:
        for stream, (video, policy) in zip(streams, before, strict=True):
            stream.video = video
            vars(stream.policy).update(policy)
        raise
