"""The loop: frames in, memory kept, questions answered. It knows no model family and no policy."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from hermes.attention import AttentionProbe, Lender, memory_attention_set, together
from hermes.backbone import Backbone, encode, self_check
from hermes.config import check
from hermes.decoding.execution import Execution
from hermes.decoding.generation import GenerationConfig
from hermes.decoding.observer import DecoderObserver
from hermes.decoding.prefill import prefill
from hermes.dialogue import QuestionConfig
from hermes.errors import InputError, SettingError
from hermes.machine.device import Stopwatch
from hermes.memory import KVMemory, MemoryConfig
from hermes.policy import MemoryPolicy, check_budget, check_policy, check_streams
from hermes.session.answer import Answer
from hermes.session.intake import Notes
from hermes.session.question import answer_question, check_question
from hermes.session.stream import Stream, all_or_nothing
from hermes.session.turns import Turns, alone
from hermes.tokens import Chunk, stack_chunks
from hermes.video import Frame

__all__ = ["Session"]

logger = logging.getLogger(__name__)

AnySession = TypeVar("AnySession", bound="Session")


class Session:
    """Streams that advance together over one memory: the loop of arXiv 2601.14724, Sec. 3.

    :class:`~hermes.session.session.StreamSession` has one stream, and
    :class:`~hermes.session.lockstep.BatchedSession` several, whose memory has a batch axis.

    Nothing is left on the model between calls: the attention implementation is set for the length of a call,
    or of a ``with`` block around the session, and restored also after an exception.

    Args:
        backbone: a loaded model family.
        policies: one for each stream, of the same kind and settings; each stream starts its own.
        fps: sampling rate of the frames; the backbone's by default.
        chunk_frames: frames encoded at once; a chunk is cut short by a question.
        probe: watches the attention of whatever is encoded.
        seed: of the policies' random numbers and of sampling.
        question: limits of questions.

    Attributes:
        streams: what belongs to each stream alone.

    Raises:
        SettingError: ``chunk_frames`` below 1, a policy that evicts where the layout forbids it, or one that
            works on pictures where frames are texts.
        UnsupportedModelError: the self-check failed.
    """

    def __init__(
        self,
        backbone: Backbone,
        policies: Sequence[MemoryPolicy],
        *,
        fps: float | None = None,
        chunk_frames: int = 16,
        generation: GenerationConfig | None = None,
        memory: MemoryConfig | None = None,
        probe: AttentionProbe | None = None,
        seed: int = 0,
        question: QuestionConfig | None = None,
    ) -> None:
        if not isinstance(backbone, Backbone):
            hint = "hermes.load_backbone gives one."
            raise SettingError("backbone", backbone, "a loaded backbone", hint)
        for policy in policies:
            check_policy(policy)
        fps = check(float | None, fps, "video.fps", {"gt": 0})
        generation = check(GenerationConfig | None, generation, "generation")
        memory = check(MemoryConfig | None, memory, "memory")
        question = check(QuestionConfig | None, question, "question")
        self.backbone = backbone
        self.policy = policies[0]
        self._check_policy()
        self.fps = fps or backbone.fps
        self.chunk_frames = _checked_chunk(chunk_frames, backbone.frames_per_group)
        seed = check(int, seed, "seed", {"ge": 0})
        self.generation = generation or GenerationConfig()
        self.question_config = question or QuestionConfig()
        self.memory_config = memory or MemoryConfig()
        # It outlives a reset: what it recorded serves the next stream.
        self.execution = Execution(backbone, self.memory_config.execution)
        self.probe = probe
        self.notes = Notes()
        self.turns = Turns()
        self._entered = ExitStack()
        if not backbone.checked:
            backbone.check()
            with self._at_work():
                self_check(backbone)
            backbone.checked = True
        self.streams = [
            Stream(
                backbone,
                policy,
                fps=self.fps,
                seed=seed,
                entry=index if len(policies) > 1 else None,
                limits=self.question_config,
                notes=self.notes,
            )
            for index, policy in enumerate(policies)
        ]
        self.reset()

    @property
    def memory(self) -> KVMemory:
        """What all streams hold; with a batch axis where there are several."""
        return self.streams[0].held

    @property
    def lock(self) -> AbstractContextManager[bool]:
        """Held by whoever reads or changes the streams; other threads wait for it."""
        return self.turns.lock

    @property
    def seed(self) -> int:
        """Of the policies' random numbers, from the next reset on, and of sampling."""
        return self.streams[0].seed

    @seed.setter
    def seed(self, seed: int) -> None:
        for stream in self.streams:
            stream.seed = seed

    def _check_policy(self) -> None:
        backbone = self.backbone
        evicts = self.policy.bound != "unbounded"
        if backbone.config.layout == "native" and not backbone.native_evicts and evicts:
            raise SettingError(
                "backbone.layout",
                "native",
                "stream, for a policy that evicts",
                "This family's stock positions go back in time; native goes with policy=full.",
            )

        if self.policy.needs_pixels and not backbone.sees:
            raise SettingError(
                "policy",
                type(self.policy).__name__,
                "for a text model, a policy that works on tokens",
                "This one works on pictures: it keeps them, compares them, or asks the vision encoder.",
            )

    @alone
    def reset(self) -> None:
        """Forget every stream and start afresh."""
        self.turns.refuse_while_writing()
        self.execution.restart()
        memory = self.backbone.new_memory(self.memory_config)
        self._encoding, self._compressing = (Stopwatch(self.backbone.device) for _ in range(2))
        for stream in self.streams:
            stream.start(memory, self._encoding, self._compressing)
        self.hold(memory)
        self._warned = False

    def go_on(self, stream: Stream) -> None:
        """Serve this stream, which has begun, in place of the one before."""
        self.execution.restart()
        self.streams, self.policy = [stream], stream.policy
        self._encoding, self._compressing = stream.encoding, stream.compressing
        self.hold(stream.held)
        stream.go_on()
        self._warned = False

    def hold(self, memory: KVMemory) -> None:
        """Go on from this memory, and observe attention over it."""
        memory.lender = Lender(self.backbone.model, memory)
        for stream in self.streams:
            stream.held = memory
        self.observer = DecoderObserver(self.backbone, memory)

    def __repr__(self) -> str:
        memory, stream = self.memory, self.streams[0]
        several = f" of {len(self.streams)} streams in lockstep" if len(self.streams) > 1 else ""
        return (
            f"<{type(self).__name__}{several}: {self.backbone!r}, {self.policy!r}, {stream.frames_seen} "
            f"frames in {stream.now:g} s, {memory!r}>"
        )

    def __enter__(self: AnySession) -> AnySession:
        self._entered.enter_context(memory_attention_set(self.backbone.model))
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the model as it was found. The memory stays readable."""
        self._entered.close()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Use the model: without gradients, in evaluation mode; then it is as it was."""
        with torch.no_grad(), memory_attention_set(self.backbone.model):
            yield

    def let_in(self, given: Sequence[Sequence[Frame]]) -> list[list[Frame]]:
        """The frames of each stream that will be taken, looked at whole before any is.

        Raises:
            InputError: one that cannot be, see :meth:`hermes.session.intake.Door.enter`.
        """
        doors = [replace(stream.door) for stream in self.streams]
        found = [
            [frame for frame in frames if door.enter(frame) is not None]
            for door, frames in zip(doors, given, strict=True)
        ]
        sizes = [door.size for door in doors if door.size is not None]
        costs = {size if self.backbone.axes > 1 else self.backbone.tokens_per_frame(*size) for size in sizes}
        if len(costs) > 1:
            named = ", ".join(f"{width}x{height}" for height, width in sizes)
            raise InputError(f"streams in lockstep bring frames of one size; these are {named}")
        return found

    def take(self, steps: Iterable[Sequence[Frame]]) -> None:
        """Take in one frame of every stream at a time; whole chunks are encoded and compressed."""
        for step in steps:
            with self.lock:
                entered = [stream.door.enter(frame) for stream, frame in zip(self.streams, step, strict=True)]
                for stream, frame in zip(self.streams, entered, strict=True):
                    if frame is not None:
                        stream.take(frame)
                if len(self.streams[0].waiting) >= self.chunk_frames:
                    self.flush()

    @alone
    def flush(self) -> None:
        """Encode the frames that wait for their chunk to fill.

        After an exception nothing of the chunk is in the memory and its frames wait for the next call, unless
        it is they that cannot be encoded.

        Raises:
            SettingError: a budget below the tokens of one frame.
            InputError: frames that cannot be encoded together, or a policy that takes frames of some streams
                only.
        """
        # A callback that asks finds the memory as it is.
        if self.turns.busy or not self.streams[0].waiting:
            return
        with self.turns.writing(), self._at_work():
            self._write_waiting()

    def _write_waiting(self) -> None:
        # The prefix first: token ids count up from it.
        self.write_prefix()
        admitted = [stream.admitted() for stream in self.streams]
        chunk = None
        if any(admitted):
            self.notify("on_encode_start", admitted[0])
            try:
                if not all(admitted):
                    raise InputError(
                        "the policy admitted frames of some streams only: they cannot go in lockstep"
                    )
                with self._encoding, all_or_nothing(self.streams):
                    encoded = [
                        encode(self.backbone, frames, stream.video, self.fps, stream.policy.needs_saliency)
                        for stream, frames in zip(self.streams, admitted, strict=True)
                    ]
                    chunk = self._write(encoded)
            except InputError:
                self._forget_waiting()
                raise
        for stream in self.streams:
            stream.frames_seen += len(stream.waiting)
        self._forget_waiting()
        if chunk is not None:
            self._after_encoding(chunk)

    def _forget_waiting(self) -> None:
        for stream in self.streams:
            stream.forget_waiting()

    @alone
    def write_chunks(self, chunks: Sequence[Chunk]) -> None:
        """Take in chunks that are embedded already, one a stream; raises as :meth:`flush`."""
        self.turns.refuse_while_writing()
        with self.turns.writing(), self._at_work():
            self._write_embedded(chunks)

    def _write_embedded(self, chunks: Sequence[Chunk]) -> None:
        self.notify("on_encode_start", ())
        check_streams(self.policy, chunks[0].embeds.shape[0])
        self.write_prefix(chunks[0].embeds.shape[0])
        with self._encoding, all_or_nothing(self.streams):
            chunk = self._write(chunks)
        for stream, own in zip(self.streams, chunks, strict=True):
            stream.count(own)
        self._after_encoding(chunk)

    def write_prefix(self, batch: int = 1) -> None:
        """Encode the prefix, before anything else; for so many streams in one chunk.

        No probe sees it: there is nothing yet that it could look at.
        """
        if self.memory.prefix:
            return
        with all_or_nothing(self.streams):
            prefix = stack_chunks([self.backbone.prefix(stream.video) for stream in self.streams])
            if batch > 1:
                prefix = replace(prefix, embeds=prefix.embeds.expand(batch, -1, -1))
            prefill(self.backbone, self.memory, prefix, prefix=True)

    def _write(self, chunks: Sequence[Chunk]) -> Chunk:
        """Read chunks, reduced, into the memory."""
        reduced = [stream.reduce(chunk) for stream, chunk in zip(self.streams, chunks, strict=True)]
        if self.streams[0].chunks == 0:
            check_budget(self.policy, reduced[0])
        chunk = stack_chunks(reduced)
        self.execution.prefill(self.memory, chunk, probe=together(self.probe, self.policy.watch()))
        for stream, own in zip(self.streams, reduced, strict=True):
            stream.written = None if stream.written is None else stream.written + len(own.tokens)
        return chunk

    def _after_encoding(self, chunk: Chunk) -> None:
        """Compress the memory after a chunk."""
        for stream in self.streams:
            stream.chunks += 1
            stream.context.extent = chunk.advance
        if self.memory.top > self.backbone.max_position and not self._warned:
            self._warned = True
            logger.warning(
                "positions have passed %d, the decoder's range: choose a re-indexer (policy.reindex)",
                self.backbone.max_position,
            )
        self.notify("on_encode_end", chunk)
        self.notify("on_compress_start")
        policies = [stream.policy for stream in self.streams]
        self.observer.chunk = chunk
        try:
            with self._compressing, torch.no_grad():
                changed = self.execution.compress(policies, self.memory, self.observer)
        finally:
            self.observer.chunk = None
        self.notify("on_compress_end", changed)

    def check_question(
        self,
        question: str,
        choices: Sequence[str],
        correct: str | None,
        ids: Tensor | None,
        lead: str = "",
    ) -> None:
        """Refuse a question that cannot be asked, before anything is done.

        Raises:
            InputError: what :func:`hermes.session.question.check_question` refuses.
        """
        check_question(self.backbone, self.question_config, question, choices, correct, ids, lead)

    @alone
    def answer(self, stream: Stream, question: str, choices: Sequence[str], **options: Any) -> Answer:
        """Answer a question to one of the streams; :func:`hermes.session.question.answer_question` says how.

        Raises:
            InputError: no frame was seen yet.
        """
        if stream.frames_seen == 0:
            raise InputError("no frame was seen before the question: feed frames first, or ask later")
        stream.say_if_whole()
        self.notify("on_ask_start", question)
        with self._at_work():
            answer = answer_question(
                stream, self.execution, self.generation, question, choices, watching=self.probe, **options
            )
        self.notify("on_ask_end", answer)
        return answer

    def notify(self, event: str, *args: Any) -> None:
        """Hear of what happens, by the name of a method of ``Callback``; nothing by default."""


def _checked_chunk(chunk_frames: int, group: int) -> int:
    whole = f"a multiple of {group}, frames encoded together"
    frames: int = check(int, chunk_frames, "stream.chunk_frames", {"ge": 1})
    if frames % group:
        raise SettingError("stream.chunk_frames", chunk_frames, whole)
    return frames
