"""A session: one stream, its memory, and questions at any time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Int
from torch import Tensor

from hermes.attention import AttentionProbe, lending
from hermes.backbone import Backbone
from hermes.config import Part
from hermes.decoding.generation import GenerationConfig
from hermes.decoding.prefill import prefill
from hermes.dialogue import QuestionConfig
from hermes.errors import InputError
from hermes.memory import KVMemory, MemoryConfig
from hermes.policy import MemoryPolicy, StreamContext, check_policy
from hermes.session.answer import Answer, Stats
from hermes.session.intake import check_time, frames_of, placed
from hermes.session.loop import Session
from hermes.session.saving import resumed_stream, save_stream
from hermes.session.stream import Stream
from hermes.session.turns import alone
from hermes.tokens import Chunk, VideoState
from hermes.video import Frame

__all__ = ["Callback", "StreamSession", "probing"]


class Callback(Part):
    """Watches a session; every method may be overridden and does nothing by default."""

    kind: ClassVar[str] = "callback"

    def on_encode_start(self, session: StreamSession, frames: Sequence[Frame]) -> None:
        """Before frames are encoded."""

    def on_encode_end(self, session: StreamSession, chunk: Chunk) -> None:
        """After a chunk is in the memory, not yet compressed."""

    def on_compress_start(self, session: StreamSession) -> None:
        """Before the policy's step."""

    def on_compress_end(self, session: StreamSession, changed: bool) -> None:
        """After the policy's step; ``changed``: whether it changed the memory."""

    def on_ask_start(self, session: StreamSession, question: str) -> None:
        """Before a question is answered."""

    def on_ask_end(self, session: StreamSession, answer: Answer) -> None:
        """After a question is answered."""


class StreamSession(Session):
    """A stream of frames, its memory, and questions at any time: the loop of arXiv 2601.14724, Sec. 3.

    A session is opened by :func:`hermes.open_session` or built from its parts. Nothing is left on the model
    between calls: the attention implementation is set for the length of a call, or of a ``with`` block around
    the session, and restored also after an exception.

    Args:
        backbone: a loaded model family.
        policy: the memory policy; the session starts it.
        fps: sampling rate of the frames; the backbone's by default.
        chunk_frames: frames encoded at once; a chunk is cut short by a question.
        callbacks: watch what happens.
        probe: watches the attention of whatever is encoded.
        seed: of the policy's random numbers and of sampling.
        question: limits of questions.

    Attributes:
        stream: what the session knows of its stream.
        now: seconds of the stream that have passed: the last frame's end, or where ``watch`` stopped.

    Raises:
        SettingError: ``chunk_frames`` below 1, or a policy that evicts where the layout forbids it.
        UnsupportedModelError: the self-check failed.
    """

    def __init__(
        self,
        backbone: Backbone,
        policy: MemoryPolicy,
        *,
        fps: float | None = None,
        chunk_frames: int = 16,
        generation: GenerationConfig | None = None,
        memory: MemoryConfig | None = None,
        callbacks: Sequence[Callback] = (),
        probe: AttentionProbe | None = None,
        seed: int = 0,
        question: QuestionConfig | None = None,
    ) -> None:
        check_policy(policy)
        # A policy that serves another stream already keeps it; this one gets a fresh copy of its settings.
        fresh: Any = policy
        own: MemoryPolicy = replace(fresh) if hasattr(policy, "context") else policy
        self.callbacks = list(callbacks)
        super().__init__(
            backbone,
            [own],
            fps=fps,
            chunk_frames=chunk_frames,
            generation=generation,
            memory=memory,
            probe=probe,
            seed=seed,
            question=question,
        )

    @property
    def stream(self) -> Stream:
        """What the session knows of its stream."""
        return self.streams[0]

    @property
    def context(self) -> StreamContext:
        """What the policy may know of the stream."""
        return self.stream.context

    @property
    def video(self) -> VideoState:
        """What the backbone remembers between chunks."""
        return self.stream.video

    @property
    def waiting(self) -> list[Frame]:
        """Frames that wait for their chunk to fill."""
        return self.stream.waiting

    @property
    def frames_seen(self) -> int:
        """Frames of the chunks so far."""
        return self.stream.frames_seen

    @property
    def now(self) -> float:
        """Seconds of the stream that have passed."""
        return self.stream.now

    @now.setter
    def now(self, seconds: float) -> None:
        self.stream.now = seconds

    @alone
    def _repr_html_(self) -> str:
        """The memory map, for notebooks."""
        # Drawing is imported where it is asked for.
        from hermes.session.memory_map import session_picture

        return session_picture(self)

    def notify(self, event: str, *args: Any) -> None:
        """Tell every callback."""
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)

    def feed(self, frames: Any, *, at: float | None = None, bgr: bool = False) -> None:
        """Take frames in; whenever ``chunk_frames`` have gathered, encode them and compress the memory.

        Every frame is looked at before it waits: one that cannot be encoded, or whose time goes back, is
        refused, and the stream goes on with those before it. A list or tuple is looked at whole before any of
        it is taken.

        A path is sampled at the session's rate. A source that is open already must have that rate, or a
        multiple of it. A clip whose times begin again goes on where the stream ended, and the log says so
        once; pictures without a time follow each other at the session's rate.

        Args:
            frames: a path, URL or open source; an array ``[T, H, W, 3]``; one picture (an array
                ``[H, W, 3]``, a tensor, a PIL image); or an iterable of pictures, of ``(time, picture)`` or
                of :class:`~hermes.video.Frame`. For a text model a file of captions, or texts in place of
                the pictures.
            at: seconds of the stream at which they begin; by default their own times, if those come later
                than all before.
            bgr: channels are blue, green, red, as OpenCV gives them.

        Raises:
            SettingError: a budget below the tokens of one frame, or a source of another rate.
            InputError: no frames, frames that cannot be encoded together, or times that go back.

        >>> import numpy as np
        >>> from hermes import open_session
        >>> session = open_session("tiny_llava_onevision", overrides=["video.fps=1"])
        >>> for _ in range(2):
        ...     session.feed(np.zeros((8, 42, 42, 3), np.uint8))
        >>> session.feed(np.zeros((42, 42, 3), np.uint8), at=60)
        >>> session.now
        61.0
        """
        start = None if at is None else check_time(at, "at")
        with self.turns.feeding():
            given = self._arriving(frames, start, bgr)
            if isinstance(frames, list | tuple):
                given = iter(self.let_in([list(given)])[0])
            self.take((frame,) for frame in given)

    def _arriving(self, frames: Any, at: float | None = None, bgr: bool = False) -> Iterator[Frame]:
        return placed(frames_of(frames, self.fps, bgr=bgr), self.stream.end, at, self.notes)

    def feed_chunk(self, chunk: Chunk) -> None:
        """Take in a chunk that is already embedded; raises SettingError as :meth:`feed`."""
        self.write_chunks([chunk])

    @alone
    def ask(
        self,
        question: str,
        choices: Sequence[str] = (),
        *,
        correct: str | None = None,
        on_text: Callable[[str], None] | None = None,
        probe: AttentionProbe | None = None,
        ids: Int[Tensor, "1 q"] | None = None,
        lead: str = "",
        **options: Any,
    ) -> Answer:
        """Answer now, from everything fed so far; the memory is bit-identical afterwards.

        Args:
            question: the user's text.
            choices: options of a multiple-choice question; the letter is chosen over their logits.
            correct: the right answer (a letter or an option's text, or the text itself), to be compared.
            on_text: called with each new piece of the answer.
            probe: watches the question's attention.
            ids: the question's tokens, where the caller has formatted it already.
            lead: what the answer begins with, as in "The red ball is in the": the model writes what follows.
                Options are then not listed; the one whose first token is the likeliest to follow is chosen.
            options: anything else transformers' ``generate`` takes.

        Raises:
            InputError: an empty question, a single choice, options that begin alike behind a lead, or no
                frame seen yet.
        """
        self.check_question(question, choices, correct, ids, lead)
        self.flush()
        if self.memory.batch_size > 1:
            raise InputError(
                f"this session holds {self.memory.batch_size} streams: a question is asked of one stream"
            )
        return self.answer(
            self.stream,
            question,
            choices,
            correct=correct,
            on_text=on_text,
            probe=probe,
            ids=ids,
            lead=lead,
            **options,
        )

    @contextmanager
    def reading(self) -> Iterator[KVMemory]:
        """A copy of the memory, which the model reads inside the block however it is called.

        ``model.generate(..., past_key_values=session.memory.fork())`` needs no block. This one encodes the
        frames that wait, writes what the native layout puts behind a video, and serves direct calls, too:
        ``model(input_ids, past_key_values=memory)``. Tokens stand behind the memory, and an attention mask
        is of the new tokens alone, as a tokenizer gives it. What is read and written stays in the copy.

        >>> import numpy as np
        >>> from hermes import open_session
        >>> session = open_session("tiny_llava_onevision", budget=64)
        >>> session.feed(np.zeros((8, 42, 42, 3), np.uint8))
        >>> model, tokenizer = session.backbone.model, session.backbone.tokenizer
        >>> inputs = tokenizer(session.backbone.question_text("What is there?"), return_tensors="pt")
        >>> with session.reading() as memory:
        ...     out = model.generate(**inputs, past_key_values=memory, max_new_tokens=4, do_sample=False)
        >>> out.shape[1] - inputs.input_ids.shape[1] <= 4
        True
        """
        self.flush()
        with self.lock:
            memory, backbone = self.memory.fork(), self.backbone
            closing = backbone.closing(self.video)
            if closing is not None:
                prefill(backbone, memory, Chunk.text(closing, backbone.axes))
        with lending(backbone.model, memory):
            yield memory

    @alone
    def stats(self) -> Stats:
        """What was done so far, and what the memory holds."""
        return self.stream.stats()

    @alone
    def save(self, folder: str | Path) -> None:
        """Write the stream's state to a folder, so that :meth:`resume` goes on from here.

        Frames that wait for their chunk are encoded first. A stream that was saved there before is replaced
        once all of this one is on disk; whatever stops the writing, the old one or the new is there.

        Raises:
            InputError: the folder cannot be written to.
        """
        self.flush()
        save_stream(self.stream, folder, self.chunk_frames)

    @alone
    def resume(self, folder: str | Path) -> None:
        """Go on from a folder written by :meth:`save`, as if the stream had not been interrupted.

        Everything is read and compared first: weights, settings of the model, the memory and the policy,
        checksums. After an error the session is as it was.

        Raises:
            SettingError: the stream was saved under another setting: which, its value there and here.
            InputError: no saved stream there, it is damaged, or of another decoder or policy.
        """
        self.turns.refuse_while_writing()
        self.go_on(resumed_stream(self.stream, folder, self.chunk_frames, self.memory_config, self.memory))

    def watch(self, frames: Any, times: Sequence[float]) -> Iterator[float]:
        """Feed frames and stop at each of the given times (s), with just those seen that had arrived before.

        They are taken as :meth:`feed` takes them. After each yield the caller asks; at the end all remaining
        frames are fed.
        """
        due = iter(sorted(times))
        stop = next(due, None)
        for frame in self._arriving(frames):
            while stop is not None and frame.arrived >= stop - 1e-6:
                self.flush()
                self.now = stop
                yield stop
                stop = next(due, None)
            with self.turns.feeding():
                self.take([(frame,)])
        self.flush()
        while stop is not None:
            self.now = stop
            yield stop
            stop = next(due, None)


@contextmanager
def probing(session: Session, probe: AttentionProbe) -> Iterator[AttentionProbe]:
    """Let a probe watch everything a session encodes inside the block."""
    before, session.probe = session.probe, probe
    try:
        yield probe
    finally:
        session.probe = before
