"""The loop: frames in, memory kept, questions answered. It knows no model family and no policy."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from hermes.attention import AttentionProbe, memory_attention_set, together
from hermes.backbone import Backbone, encode, self_check
from hermes.decoding.execution import Execution
from hermes.decoding.generation import GenerationConfig
from hermes.decoding.observer import DecoderObserver
from hermes.decoding.prefill import prefill
from hermes.dialogue import Round, check_choices, multiple_choice
from hermes.errors import InputError, SettingError
from hermes.machine.device import Stopwatch, synchronize
from hermes.memory import KVMemory, MemoryConfig
from hermes.policy import MemoryPolicy, Recall, StreamContext, check_budget, check_streams
from hermes.session.answer import Answer, Stats
from hermes.session.callback import Callback
from hermes.session.saving import load_stream, save_stream
from hermes.tokens import Chunk, VideoState

if TYPE_CHECKING:
    from hermes.video import Frame

logger = logging.getLogger(__name__)


class StreamSession:
    """A stream of frames, its memory, and questions at any time.

    Source: this project; the loop of arXiv 2601.14724, Sec. 3.

    Nothing is left on the model between calls: the attention implementation is set for the length of a call,
    or of a ``with`` block around the session, and restored also after an exception.

    Args:
        backbone: a loaded model family.
        policy: the memory policy; the session starts it.
        fps: sampling rate of the frames; the backbone's by default.
        chunk_frames: frames encoded at once; a chunk is cut short by a question.
        seed: of the policy's random numbers and of sampling.

    Attributes:
        now: seconds of the stream that have passed: the last frame's end, or where ``watch`` stopped.

    A session is opened by :func:`hermes.open_session` or built from its parts.

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
    ) -> None:
        group = backbone.frames_per_group
        if chunk_frames < 1 or chunk_frames % group:
            allowed = (
                "an integer of at least 1"
                if group == 1
                else f"a multiple of {group}, frames encoded together"
            )
            raise SettingError("stream.chunk_frames", chunk_frames, allowed)
        if backbone.config.layout == "native" and not backbone.native_evicts and policy.bound != "unbounded":
            raise SettingError(
                "backbone.layout",
                "native",
                "stream, for a policy that evicts",
                "This family's stock positions go back in time; native goes with policy=full.",
            )
        self.backbone = backbone
        # A policy that serves another stream already keeps it; this one gets a fresh copy of its settings.
        fresh: Any = policy
        self.policy: MemoryPolicy = replace(fresh) if hasattr(policy, "context") else policy
        self.fps = fps or backbone.fps
        self.chunk_frames = chunk_frames
        self.generation = generation or GenerationConfig()
        self.memory_config = memory or MemoryConfig()
        # It outlives a reset: what it recorded serves the next stream.
        self.execution = Execution(backbone, self.memory_config.execution)
        self.callbacks = list(callbacks)
        self.probe = probe
        self.seed = seed
        self._outer: Any = None
        if not backbone.checked:
            backbone.check()
            self_check(backbone)
            backbone.checked = True
        self.reset()

    def reset(self) -> None:
        """Forget the stream and start afresh."""
        self.execution.restart()
        self.memory = KVMemory.of(self.backbone.num_layers, self.backbone.rotary, self.memory_config)
        self.video = VideoState()
        self.observer = DecoderObserver(self.backbone, self.memory)
        self.context = StreamContext(
            num_layers=self.backbone.num_layers,
            num_kv_heads=self.backbone.num_kv_heads,
            max_position=self.backbone.max_position,
            generator=torch.Generator().manual_seed(self.seed),
            tokens_per_frame=self.backbone.tokens_per_frame,
            axes=self.backbone.axes,
            frames_per_group=self.backbone.frames_per_group,
            template_tail=self.backbone.template_parts.after,
        )
        self.policy.start(self.context)
        # Of the frames that wait, how many were offered to the policy, and those it took.
        self.waiting: list[Frame] = []
        self._admitted: list[Frame] = []
        self._offered = self.frames_seen = 0
        self.now = 0.0
        self._encoding = Stopwatch(self.backbone.device)
        self._compressing = Stopwatch(self.backbone.device)
        self._warned = False
        self._stats = Stats()

    def __enter__(self) -> StreamSession:
        self._outer = memory_attention_set(self.backbone.model)
        self._outer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the model as it was found. The memory stays readable."""
        outer, self._outer = self._outer, None
        if outer is not None:
            outer.__exit__(None, None, None)

    def feed(self, frames: Iterable[Frame]) -> None:
        """Take frames in; whenever ``chunk_frames`` have gathered, encode them and compress the memory.

        Raises:
            SettingError: a budget below the tokens of one frame.
            InputError: frames that cannot be encoded together.
        """
        for frame in frames:
            self.waiting.append(frame)
            self.now = frame.time + 1 / self.fps
            if len(self.waiting) >= self.chunk_frames:
                self.flush()

    def flush(self) -> None:
        """Encode the frames that wait for their chunk to fill; raises as :meth:`feed`."""
        if not self.waiting:
            return
        # The prefix first: token ids count up from it.
        self._begin()
        frames, before = self.waiting, copy.copy(self.video)
        # After an exception the same frames come again, and the policy has seen them.
        new = frames[self._offered :]
        if new:
            self._offered = len(frames)
            self._admitted = [*self._admitted, *self.policy.admit(new)]
        chunk = None
        if self._admitted:
            self._notify("on_encode_start", self._admitted)
            try:
                with self._encoding:
                    wanted = self.policy.needs_saliency
                    chunk = self._write(encode(self.backbone, self._admitted, self.video, self.fps, wanted))
            except BaseException as error:
                # Nothing of the chunk is in the memory: the frames wait for the next call, unless it is
                # they that cannot be encoded.
                self.video = before
                if isinstance(error, InputError):
                    self._forget_waiting()
                raise
        self._forget_waiting()
        self.frames_seen += len(frames)
        if chunk is not None:
            self._written(chunk)

    def _forget_waiting(self) -> None:
        self.waiting, self._admitted, self._offered = [], [], 0

    def feed_chunk(self, chunk: Chunk) -> None:
        """Take in a chunk that is already embedded; raises SettingError as :meth:`feed`."""
        self._notify("on_encode_start", ())
        with self._encoding:
            chunk = self._write(chunk)
        self.frames_seen += chunk.frames
        self.now += chunk.frames / self.fps
        self._written(chunk)

    def _write(self, chunk: Chunk) -> Chunk:
        """Read a chunk, reduced, into the memory; after an exception the policy is as it was, too."""
        check_streams(self.policy, chunk.embeds.shape[0])
        self._begin(chunk.embeds.shape[0])
        before = dict(vars(self.policy))
        try:
            chunk = self.policy.reduce(chunk)
            if self._stats.chunks == 0:
                check_budget(self.policy, chunk)
            self.execution.prefill(self.memory, chunk, probe=together(self.probe, self.policy.watch()))
        except BaseException:
            vars(self.policy).update(before)
            raise
        return chunk

    def _written(self, chunk: Chunk) -> None:
        self._stats.chunks += 1
        self.context.extent = chunk.advance
        if self.memory.top > self.backbone.max_position and not self._warned:
            self._warned = True
            logger.warning(
                "positions have passed %d, the decoder's range: choose a re-indexer (policy.reindex)",
                self.backbone.max_position,
            )
        self._notify("on_encode_end", chunk)
        self._notify("on_compress_start")
        with self._compressing, torch.no_grad():
            changed = self.execution.step(self.policy, self.memory, self.observer)
        self._notify("on_compress_end", changed)

    def _begin(self, batch: int = 1) -> None:
        """Encode the prefix before anything else."""
        if self.memory.prefix == 0:
            prefix = self.backbone.prefix(self.video)
            if batch > 1:
                prefix = replace(prefix, embeds=prefix.embeds.expand(batch, -1, -1))
            prefill(self.backbone, self.memory, prefix, probe=self.probe, prefix=True)

    def ask(
        self,
        question: str,
        choices: Sequence[str] = (),
        *,
        correct: str | None = None,
        on_text: Callable[[str], None] | None = None,
        probe: AttentionProbe | None = None,
        ids: Int[Tensor, "1 q"] | None = None,
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
            options: anything else transformers' ``generate`` takes.

        Raises:
            InputError: an empty question, a single choice, or no frame seen yet.
        """
        if not question.strip() and ids is None:
            raise InputError("the question is empty")
        check_choices(choices, correct)
        self.flush()
        if self.memory.batch_size > 1:
            raise InputError(
                f"this session holds {self.memory.batch_size} streams: a question is asked of one stream"
            )
        if self.frames_seen == 0:
            raise InputError("no frame was seen before the question: feed frames first, or ask later")
        self._notify("on_ask_start", question)
        synchronize(self.backbone.device)
        started = time.perf_counter()
        self._begin()
        fork, video = self.memory.fork(), copy.copy(self.video)

        def encode(piece: Sequence[Frame] | Chunk, into: KVMemory | None = None) -> None:
            if not isinstance(piece, Chunk) and piece:
                piece = self.backbone.video(piece, video, fps=self.fps)
            if isinstance(piece, Chunk):
                prefill(self.backbone, fork if into is None else into, piece, probe=self.probe)

        probe = probe or self.probe
        self.policy.recall(Recall(fork, question, encode, DecoderObserver(self.backbone, fork)))
        read = fork.lengths
        if ids is None:
            text = multiple_choice(question, choices) if choices else question
            ids = self.backbone.encode(self.backbone.question_text(text, "Best option: (" if choices else ""))
        closing = self.backbone.closing(video)
        if closing is not None:
            prefill(self.backbone, fork, Chunk.text(closing, self.backbone.axes), probe=probe)
        made = self.execution.generate(
            fork,
            ids,
            self.generation,
            started=started,
            probe=probe,
            on_text=on_text,
            seed=self.seed,
            **options,
        )
        asked = (question, choices, correct)
        answer = Answer.of(self.backbone, made, self.stats(), *asked, time_s=self.now, read_per_layer=read)
        self.context.history.append(Round(question, answer.choice or answer.answer, tuple(choices)))
        self._stats.questions += 1
        self._notify("on_ask_end", answer)
        return answer

    def stats(self) -> Stats:
        """What was done so far, and what the memory holds."""
        return replace(
            self._stats,
            frames=self.frames_seen,
            encode_ms=self._encoding.ms,
            compress_ms=self._compressing.ms,
            tokens_per_layer=self.memory.lengths,
            memory_bytes=self.memory.memory_bytes + self.policy.resident_bytes,
            archived_bytes=self.policy.archived_bytes,
        )

    def save(self, folder: str | Path) -> None:
        """Write the stream's state to a folder, so that :meth:`resume` goes on from here (this project).

        Frames that wait for their chunk are encoded first.
        """
        self.flush()
        save_stream(self, folder)

    def resume(self, folder: str | Path) -> None:
        """Go on from a folder written by :meth:`save`, as if the stream had not been interrupted.

        Raises:
            InputError: no saved stream there, or one of another decoder or policy.
        """
        load_stream(self, folder)

    def mark_started(self) -> None:
        """Budgets were checked when the stream began: not again after it is taken up."""
        self._stats.chunks = 1

    def watch(self, frames: Iterable[Frame], times: Sequence[float]) -> Iterator[float]:
        """Feed frames and stop at each of the given times (s), with just those seen that had arrived before.

        After each yield the caller asks; at the end all remaining frames are fed.
        """
        due = iter(sorted(times))
        stop = next(due, None)
        for frame in frames:
            while stop is not None and frame.arrived >= stop - 1e-6:
                self.flush()
                self.now = stop
                yield stop
                stop = next(due, None)
            self.feed((frame,))
        self.flush()
        while stop is not None:
            self.now = stop
            yield stop
            stop = next(due, None)

    def _notify(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)


@contextmanager
def probing(session: StreamSession, probe: AttentionProbe) -> Iterator[AttentionProbe]:
    """Let a probe watch everything a session encodes inside the block (this project)."""
    before, session.probe = session.probe, probe
    try:
        yield probe
    finally:
        session.probe = before
