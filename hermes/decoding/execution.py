"""How a stream's steps are run: eagerly, in place, or recorded at fixed shapes."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hermes.attention import AttentionProbe, StopForwardError, causal_bias, memory_attention
from hermes.backbone import Backbone
from hermes.decoding.generation import Generated, GenerationConfig, generate, with_options
from hermes.decoding.in_place import InPlaceDecoder, generate_in_place, reason_not_in_place
from hermes.decoding.layerwise import LayerwiseDecoder, clocks_of, rotary_at, run_block
from hermes.decoding.layerwise_observer import LayerwiseObserver
from hermes.decoding.observer import DecoderObserver
from hermes.decoding.parallel import check_alike, processes_of
from hermes.decoding.prefill import prefill
from hermes.decoding.recording import NotYetError, Recordings, Run, record
from hermes.memory import ExecutionMode, KVMemory
from hermes.policy import MemoryPolicy, compress_together, group_by_round, reindex_due
from hermes.tokens import Chunk

_logger = logging.getLogger(__name__)

# Arguments that decoding in place takes as `generate` does.
_SHARED = {"started", "on_text", "seed", "processors"}


class Execution:
    """Runs a stream's prefills, compressions and answers as ``memory.execution`` has it.

    With a fixed budget every step has the same shapes: with ``compile`` the prefill of a chunk and the
    compression after it are recorded (:mod:`hermes.decoding.recording`) once the memory is full, and
    replayed. What cannot be recorded runs eagerly, with the reason in the log, and comes to the same.

    Args:
        backbone: a loaded model family.
        mode: ``eager``, ``static`` (answers in place) or ``compile``.

    Attributes:
        layerwise: whether the decoder can be run layer by layer.
        decoder: decodes answers in place; None for transformers' ``generate``.
        prefills, compressions: what was recorded, and why not.
    """

    def __init__(self, backbone: Backbone, mode: ExecutionMode = "eager") -> None:
        self.backbone = backbone
        self.mode = mode
        self.layerwise = LayerwiseDecoder(backbone)
        self.decoder = None if mode == "eager" else InPlaceDecoder(backbone, mode, self.layerwise)
        self.prefills = Recordings[Run]("prefill of a chunk")
        # A CUDA graph alone takes one step to record; a compiler takes minutes.
        most = None if backbone.device.type == "cuda" else 8
        self.compressions = Recordings[_Compression]("compression", most=most)

    def restart(self) -> None:
        """Another stream begins; what was recorded serves it, too."""
        self.prefills.restart()
        self.compressions.restart()

    # -- reading a chunk ------------------------------------------------------------------------------------

    def prefill(self, memory: KVMemory, chunk: Chunk, *, probe: AttentionProbe | None = None) -> None:
        """As :func:`hermes.decoding.prefill.prefill`."""
        recording = (
            self._prefill_recording(memory, chunk, probe) if self.mode == "compile" and len(chunk) else None
        )
        if recording is None:
            prefill(self.backbone, memory, chunk, probe=probe)
            return
        try:
            with torch.no_grad():
                made = recording(*_read(memory, chunk))
                memory.load_pending(made)
                memory.commit(chunk.positions, chunk.tokens, chunk.advance)
        except BaseException:
            memory.rollback()
            raise

    def _prefill_recording(self, memory: KVMemory, chunk: Chunk, probe: AttentionProbe | None) -> Run | None:
        reason = self.layerwise.reason_not(memory)
        if probe is not None:
            reason = "a probe or the policy watches the chunk's attention"
        elif memory.clock_mode != "per_layer":
            reason = "keys are rotated at the first layer's clock"
        elif not chunk.deepstack and self.backbone.prefill_kwargs(chunk):
            reason = "the backbone hands its decoder more than embeddings"
        if reason is not None:
            self.prefills.refuse(reason)
            return None
        key = (tuple(memory.lengths), chunk.embeds.shape, chunk.embeds.dtype, len(chunk.deepstack))

        def make() -> Run:
            with torch.no_grad():
                return record(self._chunk, _read(memory, chunk))

        return self.prefills.get(key, make)

    def _chunk(self, embeds: Tensor, steps: Tensor, clocks: Tensor, *rest: Tensor) -> list[Tensor]:
        """Keys and values ``[B, H, T + n, D]`` of every layer after a chunk, every layer at its own clock."""
        blocks: Any = self.backbone.decoder.layers
        count = 2 * len(blocks)
        held, deepstack = rest[:count], rest[count:]
        # [A, L, B, n]
        positions = clocks[None, :, :, None] + steps[:, None, None, :]
        cos, sin = rotary_at(self.backbone.rotary, positions, embeds.dtype)
        masks: dict[int, Tensor] = {}
        hidden, out, queries = embeds, list[Tensor](), embeds.shape[1]
        for index, block in enumerate(blocks):
            keys, values, last = *held[2 * index : 2 * index + 2], index == len(blocks) - 1

            def attend(
                query: Tensor,
                key: Tensor,
                value: Tensor,
                own: Any = block.self_attn,
                keys: Tensor = keys,
                values: Tensor = values,
                last: bool = last,
            ) -> Tensor:
                keys, values = torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2)
                out.extend((keys, values))
                if last:
                    raise StopForwardError
                columns = keys.shape[2]
                if not query.is_cuda and columns not in masks:
                    masks[columns] = causal_bias(queries, columns, query)
                mask = masks.get(columns)
                return memory_attention(own, query, keys, values, mask, own.scaling, in_place=True)[0]

            try:
                hidden = run_block(block, hidden, cos[index], sin[index], attend)
            except StopForwardError:
                break
            if index < len(deepstack):
                hidden = hidden + deepstack[index]
        return out

    # -- answering ------------------------------------------------------------------------------------------

    def generate(
        self,
        memory: KVMemory,
        ids: Int[Tensor, "1 q"],
        config: GenerationConfig,
        *,
        probe: AttentionProbe | None = None,
        **options: Any,
    ) -> Generated:
        """As :func:`hermes.decoding.generation.generate`, in place where nothing speaks against it.

        What speaks against it is logged.
        """
        if self.decoder is not None:
            named = {name: options.pop(name) for name in _SHARED & options.keys()}
            config, options = with_options(config, options)
            reason = reason_not_in_place(
                self.decoder, memory, beams=config.num_beams, probe=probe, options=options
            )
            if reason is None:
                return generate_in_place(self.decoder, memory, ids, config, **named)
            _logger.warning("memory.execution=%s: transformers' generate answers, as %s", self.mode, reason)
            options |= named
        return generate(self.backbone, memory, ids, config, probe=probe, **options)

    # -- compressing ----------------------------------------------------------------------------------------

    def compress(self, policies: Sequence[MemoryPolicy], memory: KVMemory, observer: DecoderObserver) -> bool:
        """One step of a stream, or of streams in lockstep; returns whether the memory changed.

        As :meth:`hermes.MemoryPolicy.step` and :func:`hermes.policy.compress_together`, replayed where it is
        recorded.
        """
        first = policies[0]
        alike = self.mode == "compile" and len(group_by_round(policies)) == 1
        if alike and self.records(first, memory):
            compact = reindex_due(policies, memory, compressing=True)
            if self._replay(first, memory, observer, compact):
                return True
        changed = (
            first.step(memory, observer)
            if len(policies) == 1
            else compress_together(policies, memory, observer)
        )
        if (group := processes_of(self.backbone.model)) is not None:
            check_alike(memory, group, type(first).__name__)
        return changed

    def records(self, policy: MemoryPolicy, memory: KVMemory) -> bool:
        """Whether this policy's compressions of this memory are recorded; the log says what is against it."""
        if self.mode != "compile":
            return False
        reason = self.layerwise.reason_not(memory) or reason_not_recorded(policy, memory)
        if reason is not None:
            self.compressions.refuse(reason)
        return reason is None

    def _replay(
        self, policy: MemoryPolicy, memory: KVMemory, observer: DecoderObserver, compact: bool | Tensor
    ) -> bool:
        """Replay a compression; False where it is to be done eagerly.

        Args:
            compact: whether positions become dense; not for some streams of a batch only.
        """
        if isinstance(compact, Tensor):
            return False
        layers, context = memory.managed, policy.context
        # Whatever a policy may read besides tensors.
        key = (
            *(tuple(layer.keys.shape) for layer in layers),
            tuple((layer.prefix, layer.has_timestamps, layer.has_protected) for layer in layers),
            layers[0].keys.dtype,
            compact,
            context.extent,
            context.generator.initial_seed(),
            repr(context.history[-1:]),
        )
        state = _state(memory)
        recording = self.compressions.get(
            key, lambda: _Compression.of(policy, memory, observer, compact, state)
        )
        if recording is None:
            return False
        with torch.no_grad():
            *made, flaws = recording.run(*state)
        memory.apply_recorded(made, [flaws], recording.order, recording.ids)
        return True


@dataclass(frozen=True)
class _Compression:
    """A recorded compression: the layers its flags are of, the summary ids it uses, and what must not die."""

    run: Run
    order: list[int]
    ids: int
    keep: tuple[object, ...]

    @staticmethod
    def of(
        policy: MemoryPolicy,
        memory: KVMemory,
        observer: DecoderObserver,
        compact: bool,
        state: Sequence[Tensor],
    ) -> _Compression:
        drawn, order, ids = policy.context.generator.get_state(), list[int](), list[int]()
        # What it knows on the host changes from step to step, and would be part of the record.
        fork = _recorded(memory)
        watch, before = LayerwiseObserver.like(observer, fork), _held_by(policy)

        def run(*tensors: Tensor) -> list[Tensor]:
            fork.load_state(tensors[:-1])
            updates = policy.compress(fork, watch)
            if not updates:
                raise NotYetError
            found, order[:], taken = fork.evict(updates, tensors[-1], compact=compact)
            ids[:] = [taken]
            return [*fork.state(), torch.cat(found)]

        try:
            # On a GPU a CUDA graph alone: every question changes the guidance, and a compiler takes minutes.
            recorded = record(run, state, fuse=False)
        finally:
            redrawn = not torch.equal(drawn, policy.context.generator.get_state())
            policy.context.generator.set_state(drawn)
            fork.reset()
        if redrawn:
            raise RuntimeError("random numbers are drawn")
        if _held_by(policy) != before:
            raise RuntimeError("the policy or a part of it remembers something")
        return _Compression(recorded, order, ids[0], (policy, watch.texts))


class Recorded(KVMemory):
    """A memory while it is recorded: what it knows on the host cannot be read."""

    def __getattribute__(self, name: str) -> Any:
        """An attribute, if it is the same at every step.

        Raises:
            RuntimeError: it is not.
        """
        if name in ("next_position", "top", "next_summary_id"):
            raise RuntimeError(f"memory.{name} is read, which changes from step to step")
        return super().__getattribute__(name)


def _recorded(memory: KVMemory) -> Recorded:
    fork = Recorded.__new__(Recorded)
    fork.__dict__.update(memory.fork().__dict__)
    return fork


def _held_by(policy: MemoryPolicy) -> bytes:
    """What a policy and its parts hold; records need it to stay the same."""
    held = {name: value for name, value in vars(policy).items() if name != "context"}
    return pickle.dumps(held)


def reason_not_recorded(policy: MemoryPolicy, memory: KVMemory) -> str | None:
    """Why a policy's compression cannot be recorded; None where it can."""
    kind = type(policy)
    if policy.reads_again:
        return "the policy has each chunk read a second time"
    if not policy.repeats:
        return f"{kind.__name__} does not say that it is stateless"
    if policy.watch() is not None:
        return "the policy follows the chunks' attention"
    if memory.keep_written:
        return "memory.keep_written holds keys twice"
    if memory.clock_mode != "per_layer":
        return "keys are rotated at the first layer's clock"
    if memory.kernels.wanted == "triton" and not memory.managed[0].keys.is_cuda:
        return "Triton's interpreter cannot be recorded"
    return None


def _read(memory: KVMemory, chunk: Chunk) -> list[Tensor]:
    """What a chunk's prefill reads, in the order of :meth:`Execution._chunk`."""
    device = chunk.embeds.device
    positions = chunk.positions.to(device, torch.float32, non_blocking=True)
    held = [x for layer in memory.managed for x in (layer.keys, layer.values)]
    return [chunk.embeds, positions, clocks_of(memory.managed), *held, *chunk.deepstack]


def _state(memory: KVMemory) -> list[Tensor]:
    """What a compression reads; the next summary's id, filled in on the device, comes last."""
    number = torch.full((), memory.next_summary_id, dtype=torch.int64, device=memory.managed[0].keys.device)
    return [*memory.state(), number]
