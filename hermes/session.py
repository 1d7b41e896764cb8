"""The loop: frames in, memory kept, questions answered. It knows no model family and no policy."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from hermes.answer import Answer, Stats, is_correct
from hermes.attention import attending, installed
from hermes.backbone import Backbone, Chunk, VideoState
from hermes.config import Part, setting
from hermes.errors import InputError, SettingError
from hermes.generation import Generated, GenerationConfig, generate
from hermes.memory import KVMemory
from hermes.observe import Observer
from hermes.policy import MemoryPolicy, Recall, StreamContext
from hermes.probe import AttentionProbe
from hermes.prompts import Turn, letters, multiple_choice
from hermes.provenance import Provenance
from hermes.resources import peak_memory_bytes
from hermes.selfcheck import self_check

if TYPE_CHECKING:
    from hermes.video import Frame


@dataclass
class MemoryConfig:
    """How the memory stores keys (settings ``memory.*``; this project)."""

    keep_written: bool = setting(
        False,
        help="hold a second copy of the keys as first written: no rounding drift under eager re-indexing",
    )
    clock: Literal["per_layer", "first_layer"] = setting(
        "per_layer",
        help="first_layer rotates every layer at the first layer's clock (the release, for Qwen2.5-VL)",
    )


class Callback(Part):
    """Watches a session; every method may be overridden and does nothing by default (this project)."""

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
        if chunk_frames < 1:
            raise SettingError("stream.chunk_frames", chunk_frames, "an integer of at least 1")
        if backbone.config.layout == "native" and not backbone.native_evicts and policy.bound != "unbounded":
            raise SettingError(
                "backbone.layout",
                "native",
                "stream, for a policy that evicts",
                "This family's stock positions go back in time; native goes with policy=full.",
            )
        self.backbone = backbone
        self.policy = policy
        self.fps = fps or backbone.config.fps or backbone.default_fps
        self.chunk_frames = chunk_frames
        self.generation = generation or GenerationConfig()
        self.memory_config = memory or MemoryConfig()
        self.callbacks = list(callbacks)
        self.probe = probe
        self.seed = seed
        self._outer: Any = None
        if not backbone.checked:
            self_check(backbone)
            backbone.checked = True
        self.reset()

    def reset(self) -> None:
        """Forget the stream and start afresh."""
        self.memory = KVMemory(
            self.backbone.num_layers,
            self.backbone.rotary,
            keep_written=self.memory_config.keep_written,
            clock=self.memory_config.clock,
        )
        self.video = VideoState()
        self.observer = Observer(self.backbone, self.memory)
        self.context = StreamContext(
            num_layers=self.backbone.num_layers,
            num_kv_heads=self.backbone.num_kv_heads,
            max_position=self.backbone.max_position,
            generator=torch.Generator().manual_seed(self.seed),
            tokens_per_frame=self.backbone.tokens_per_frame,
            frames_per_group=self.backbone.frames_per_group,
        )
        self.policy.start(self.context)
        self.waiting: list[Frame] = []
        self.frames_seen = 0
        self.now = 0.0
        self._stats = Stats()

    def __enter__(self) -> StreamSession:
        self._outer = installed(self.backbone.model)
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
        frames_in = self.policy.admit(frames)
        if frames_in:
            self._notify("on_encode_start", frames_in)
            started = time.perf_counter()
            try:
                chunk = self.policy.reduce(self.backbone.video(frames_in, self.video, fps=self.fps))
                self._write(chunk, started)
            except BaseException:
                # Nothing of the chunk is in the memory: the frames wait for the next call.
                self.video = before
                raise
        self.waiting = []
        self.frames_seen += len(frames)
        if frames_in:
            self._compress()

    def feed_chunk(self, chunk: Chunk) -> None:
        """Take in a chunk that is already embedded; raises SettingError as :meth:`feed`."""
        self._write(self.policy.reduce(chunk), time.perf_counter())
        self.frames_seen += chunk.frames
        self.now += chunk.frames / self.fps
        self._compress()

    def _write(self, chunk: Chunk, started: float) -> None:
        if self._stats.chunks == 0:
            self._check_budget(chunk)
        self._begin(chunk.embeds.shape[0])
        self._prefill(self.memory, chunk)
        self._stats.encode_ms += 1e3 * (time.perf_counter() - started)
        self._stats.chunks += 1
        self.context.extent = chunk.advance
        self._notify("on_encode_end", chunk)

    def _compress(self) -> None:
        self._notify("on_compress_start")
        started = time.perf_counter()
        with torch.no_grad():
            changed = self.policy.step(self.memory, self.observer)
        self._stats.compress_ms += 1e3 * (time.perf_counter() - started)
        self._notify("on_compress_end", changed)

    def _check_budget(self, chunk: Chunk) -> None:
        frame = chunk.tokens.frame
        cost = int((frame == frame[0]).sum()) if len(frame) else 0
        if self.policy.bound != "unbounded" and self.policy.budget < cost:
            raise SettingError(
                "policy.budget", self.policy.budget, f"at least {cost}, the tokens of one frame"
            )

    def _begin(self, batch: int = 1) -> None:
        """Encode the prefix before anything else."""
        if self.memory.prefix == 0:
            prefix = self.backbone.prefix(self.video)
            if batch > 1:
                prefix = Chunk(
                    prefix.embeds.expand(batch, -1, -1), prefix.positions, prefix.advance, prefix.tokens, 0
                )
            self._prefill(self.memory, prefix, prefix=True)

    @torch.no_grad()
    def _prefill(self, memory: KVMemory, chunk: Chunk, *, prefix: bool = False) -> None:
        if len(chunk) == 0:
            return
        # [A, n] -> [B, n] for 1-D positions, [3, B, n] for M-RoPE
        positions = (memory.next_position + chunk.positions).to(chunk.embeds.device)
        batch = chunk.embeds.shape[0]
        positions = (
            positions.expand(batch, -1)
            if self.backbone.axes == 1
            else positions[:, None].expand(-1, batch, -1)
        )
        try:
            with installed(self.backbone.model), attending(memory, self.probe):
                self.backbone.decoder(
                    inputs_embeds=chunk.embeds,
                    position_ids=positions,
                    past_key_values=memory,
                    use_cache=True,
                    **self.backbone.prefill_kwargs(chunk),
                )
        except BaseException:
            memory.rollback()
            raise
        memory.commit(chunk.positions, chunk.tokens, chunk.advance, prefix=prefix)

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
        if len(choices) == 1:
            raise InputError("a multiple-choice question needs at least two choices")
        self.flush()
        if self.memory.batch_size > 1:
            raise InputError(
                f"this session holds {self.memory.batch_size} streams: a question is asked of one stream"
            )
        if self.frames_seen == 0:
            raise InputError("no frame was seen before the question: feed frames first, or ask later")
        self._notify("on_ask_start", question)
        started = time.perf_counter()
        self._begin()
        fork = self.memory.fork()
        observer = Observer(self.backbone, fork)
        self.policy.recall(Recall(fork, question, lambda piece: self._recall(fork, piece), observer))
        if ids is None:
            text = multiple_choice(question, choices) if choices else question
            ids = self.backbone.encode(self.backbone.question_text(text, "Best option: (" if choices else ""))
        closing = self.backbone.closing(self.video)
        if closing is not None:
            n = closing.shape[1]
            positions = torch.arange(n, dtype=torch.float32, device=closing.device).expand(
                self.backbone.axes, n
            )
            self._prefill(fork, Chunk(closing, positions, n, Provenance.text(n), 0))
        made = generate(
            self.backbone,
            fork,
            ids,
            self.generation,
            started=started,
            probe=probe or self.probe,
            on_text=on_text,
            seed=self.seed,
            **options,
        )
        answer = self._answer(question, choices, correct, made)
        self.context.history.append(Turn(question, answer.choice or answer.answer, tuple(choices)))
        self._stats.questions += 1
        self._notify("on_ask_end", answer)
        return answer

    def _recall(self, fork: KVMemory, piece: Sequence[Frame] | Chunk) -> None:
        if not isinstance(piece, Chunk):
            if not piece:
                return
            piece = self.backbone.video(piece, VideoState(next_id=1 << 40), fps=self.fps)
        self._prefill(fork, piece)

    def _answer(self, question: str, choices: Sequence[str], correct: str | None, made: Generated) -> Answer:
        text = self.backbone.decode(made.ids).strip()
        choice, probabilities = None, None
        if choices:
            names = letters(len(choices))
            ids = torch.tensor([int(self.backbone.encode(name)[0, -1]) for name in names])
            weights = made.first_logits.cpu()[ids].softmax(-1).tolist()
            probabilities = dict(zip(names, weights, strict=True))
            choice = max(names, key=lambda name: probabilities[name])
        last = self.memory.lengths
        return Answer(
            question=question,
            time_s=self.now,
            answer=text,
            choice=choice,
            probabilities=probabilities,
            correct=None if correct is None else is_correct(correct, choice or text, choices),
            ttft_ms=1e3 * made.ttft,
            tpot_ms=None if made.tpot is None else 1e3 * made.tpot,
            frames_seen=self.frames_seen,
            tokens_per_layer=last,
            memory_bytes=self.memory.memory_bytes,
            peak_memory_bytes=peak_memory_bytes(self.backbone.device),
            ids=made.ids,
        )

    def stats(self) -> Stats:
        """What was done so far, and what the memory holds."""
        self._stats.frames = self.frames_seen
        self._stats.tokens_per_layer = self.memory.lengths
        self._stats.memory_bytes = self.memory.memory_bytes
        return self._stats

    def watch(self, frames: Iterable[Frame], times: Sequence[float]) -> Iterator[float]:
        """Feed frames and stop at each of the given times (s), with just the frames before it seen.

        After each yield the caller asks; at the end all remaining frames are fed.
        """
        due = iter(sorted(times))
        stop = next(due, None)
        for frame in frames:
            while stop is not None and frame.time >= stop - 1e-6:
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
