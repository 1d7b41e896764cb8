"""The contract that every memory policy keeps, clause by clause: for ours, and for yours."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hermes.attention import installed
from hermes.backbone import Backbone, Chunk, VideoState
from hermes.config import build, config_hash, to_dict
from hermes.loading import load_backbone
from hermes.memory import KVMemory, LayerUpdate
from hermes.observe import Observer
from hermes.policy import MemoryPolicy
from hermes.provenance import Kind, Provenance
from hermes.registry import registry
from hermes.session import Answer, Callback, StreamSession
from hermes.storage import load_memory
from hermes.video import Frame

if TYPE_CHECKING:
    import pytest

__all__ = ["CLAUSES", "ContractError", "Trial", "check_policy", "over_clauses", "over_policies"]

CHUNK_FRAMES = 4
# Relative to the largest key: float32 rotations, one a re-indexing.
ROTATION_ERROR = 1e-4

State = list[dict[str, Tensor]]  # per layer, by name: a copy of everything the memory holds


class ContractError(AssertionError):
    """A policy breaks a clause of the contract (this project)."""


def require(condition: object, message: str) -> None:
    if not condition:
        raise ContractError(message)


@dataclass(frozen=True)
class Step:
    """What happened to the memory after one chunk."""

    before: State
    after: State
    updates: Mapping[int, LayerUpdate]
    changed: bool


@dataclass(frozen=True)
class Recording:
    """A stream's steps, and every token's key (not rotated) and value by token id, per layer."""

    steps: list[Step]
    prefix: int
    keys: list[dict[int, Tensor]]
    values: list[dict[int, Tensor]]


class Trial:
    """A policy on a backbone, with short streams of noise to try it on.

    Source: this project.

    Args:
        policy: a registered name, a dotted path, or an instance, whose settings are kept but for the budget.
        backbone: a loaded model; the tiny random LLaVA-OneVision by default.
        budget: video tokens a layer; by default just above what one chunk takes.
    """

    def __init__(
        self, policy: str | MemoryPolicy, backbone: Backbone | None = None, budget: int | None = None
    ) -> None:
        self.backbone = load_backbone("tiny_llava_onevision") if backbone is None else backbone
        chunk = self.backbone.video(self.frames(CHUNK_FRAMES), VideoState(), fps=self.backbone.fps)
        frame = int((chunk.tokens.frame == chunk.tokens.frame[0]).sum())
        self.advance = chunk.advance
        self.budget = len(chunk) + frame + 1 if budget is None else budget
        plain = {"name": policy} if isinstance(policy, str) else to_dict(policy)
        self.spec: dict[str, Any] = {**plain, "budget": self.budget}

    def frames(self, count: int, seed: int = 0) -> list[Frame]:
        """Frames of noise, sampled at the backbone's rate."""
        random = np.random.default_rng(seed)
        images = [random.integers(0, 256, (84, 84, 3), dtype=np.uint8) for _ in range(count)]
        return [Frame(image, index / self.backbone.fps, index) for index, image in enumerate(images)]

    def policy(self) -> MemoryPolicy:
        """A fresh instance."""
        return build(MemoryPolicy, self.spec, "policy")  # type: ignore[type-abstract]

    def session(self, callbacks: Sequence[Callback] = (), backbone: Backbone | None = None) -> StreamSession:
        """A fresh session with a fresh policy."""
        model = self.backbone if backbone is None else backbone
        return StreamSession(model, self.policy(), chunk_frames=CHUNK_FRAMES, callbacks=callbacks)

    def streamed(self, chunks: int = 5, backbone: Backbone | None = None) -> StreamSession:
        """A session that has seen so many chunks."""
        session = self.session(backbone=backbone)
        session.feed(self.frames(chunks * CHUNK_FRAMES))
        return session

    def allowed(self, policy: MemoryPolicy) -> list[int]:
        """Video tokens each layer may hold."""
        budgets: Callable[[int], list[int]] | None = getattr(policy, "budgets", None)
        layers = self.backbone.num_layers
        return [policy.budget] * layers if budgets is None else budgets(layers)

    def positions_in_use(self, policy: MemoryPolicy) -> tuple[int, int]:
        """A decoder's range so small that positions must be re-indexed, and what may be used of it."""
        margin = int(getattr(policy.reindexing, "margin", 0))
        room = self.session().memory.prefix + self.budget + 4 * self.advance + 64
        return room + margin, room + min(margin, self.advance)

    @cached_property
    def recording(self) -> Recording:
        """A stream long enough for eviction and re-indexing, recorded."""
        recorder = _Recorder()
        session = self.session([recorder])
        session.context.max_position, room = self.positions_in_use(session.policy)
        recorder.watch(session.policy)
        chunks = math.ceil(room / self.advance) + 3
        with recorder.hooked(self.backbone):
            session.feed(self.frames(chunks * CHUNK_FRAMES))
        return Recording(recorder.steps, session.memory.prefix, recorder.keys, recorder.values)


class _Recorder(Callback):
    """Copies the memory around every compression, and collects keys as projected."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.keys: list[dict[int, Tensor]] = []
        self.values: list[dict[int, Tensor]] = []
        self._projected: dict[int, list[Tensor]] = {}
        self._before: State = []
        self._updates: Mapping[int, LayerUpdate] = {}

    def watch(self, policy: MemoryPolicy) -> None:
        compress = policy.compress

        def spy(memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
            self._updates = compress(memory, observe)
            return self._updates

        # On the instance: the class stays as it is.
        vars(policy)["compress"] = spy

    @contextmanager
    def hooked(self, backbone: Backbone) -> Iterator[None]:
        handles = []
        for index, block in enumerate(backbone.decoder.layers):  # type: ignore[arg-type]
            attention: Any = block.self_attn
            last = attention.k_norm if hasattr(attention, "k_norm") else attention.k_proj
            self._projected[index] = []

            def keep(module: Any, args: Any, output: Tensor, index: int = index, width: int = attention.head_dim) -> None:
                self._projected[index].append(output.reshape(*output.shape[:2], -1, width).transpose(1, 2))

            handles.append(last.register_forward_hook(keep))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def on_encode_end(self, session: StreamSession, chunk: Chunk) -> None:
        self._before, self._updates = _state(session.memory), {}
        for index, layer in enumerate(session.memory):
            if len(self.keys) == index:
                self.keys.append({})
                self.values.append({})
            # The prefix too, where this is the first chunk; a guidance pass of the compression is gone by now.
            keys = torch.cat(self._projected[index], dim=2)
            count = keys.shape[2]
            ids = layer.held.id[0, 0, -count:].tolist()
            self.keys[index].update(zip(ids, keys[0].unbind(1), strict=True))
            self.values[index].update(zip(ids, layer.values[0, :, -count:].unbind(1), strict=True))

    def on_compress_end(self, session: StreamSession, changed: bool) -> None:
        self.steps.append(Step(self._before, _state(session.memory), self._updates, changed))
        for seen in self._projected.values():
            seen.clear()


def _state(memory: KVMemory) -> State:
    return [{name: tensor.clone() for name, tensor in layer.tensors().items()} for layer in memory]


def _same(one: State, other: State) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


# -- the clauses -------------------------------------------------------------------------------------------


def budget_is_kept(trial: Trial) -> None:
    """A bounded policy never holds more video tokens than its budget, in any layer or in total."""
    policy = trial.policy()
    if policy.bound != "bounded":
        return
    allowed = trial.allowed(policy)
    total = policy.budget * len(allowed)
    for number, step in enumerate(trial.recording.steps):
        held = [layer["keys"].shape[2] - trial.recording.prefix for layer in step.after]
        for index, (count, limit) in enumerate(zip(held, allowed, strict=True)):
            require(count <= limit, f"chunk {number}: layer {index} holds {count} video tokens, allowed {limit}")
        require(sum(held) <= total, f"chunk {number}: {sum(held)} video tokens in all layers, allowed {total}")


def lengths_are_as_declared(trial: Trial) -> None:
    """Once it evicts, a policy that states a budget per layer (``budgets``) fills it exactly."""
    policy = trial.policy()
    if policy.bound != "bounded" or not hasattr(policy, "budgets"):
        return
    for number, step in enumerate(trial.recording.steps):
        for index in step.updates:
            count, limit = step.after[index]["keys"].shape[2] - trial.recording.prefix, trial.allowed(policy)[index]
            require(count == limit, f"chunk {number}: layer {index} keeps {count} video tokens of a budget of {limit}")


def prefix_is_kept(trial: Trial) -> None:
    """The prefix stays as it was first written, bit for bit."""
    prefix = trial.recording.prefix
    require(prefix > 0 or not trial.recording.steps, "the memory has no prefix")
    for number, step in enumerate(trial.recording.steps):
        for index, (first, now) in enumerate(zip(trial.recording.steps[0].before, step.after, strict=True)):
            for name, axis in (("keys", 2), ("values", 2), ("positions", 3), ("tokens", 3)):
                was, held = first[name].narrow(axis, 0, prefix), now[name].narrow(axis, 0, prefix)
                require(bool((was == held).all()), f"chunk {number}: layer {index} has other {name} in its prefix")


def kept_indices_are_valid(trial: Trial) -> None:
    """Slots to keep are unique, ascending and in range, and begin with the prefix; no token is held twice."""
    for number, step in enumerate(trial.recording.steps):
        for index, update in step.updates.items():
            where, keep = f"chunk {number}: layer {index} keeps", update.keep
            require(keep.dtype == torch.int64 and keep.ndim == 3, f"{where} {keep.dtype} {tuple(keep.shape)}")
            require(bool((keep.diff(dim=-1) > 0).all()), f"{where} slots that are not ascending or not unique")
            length = step.before[index]["keys"].shape[2]
            require(bool(((keep >= 0) & (keep < length)).all()), f"{where} slots outside 0 .. {length - 1}")
            head = keep[..., : trial.recording.prefix]
            require(bool((head == torch.arange(trial.recording.prefix)).all()), f"{where} not all of the prefix")
        for index, layer in enumerate(step.after):
            for ids in Provenance(layer["tokens"]).id.flatten(0, 1):
                require(len(ids.unique()) == len(ids), f"chunk {number}: layer {index} holds a token twice")


def untriggered_memory_is_untouched(trial: Trial) -> None:
    """Where nothing is evicted or re-indexed, the memory stays bit-identical."""
    for number, step in enumerate(trial.recording.steps):
        if not step.changed:
            require(_same(step.before, step.after), f"chunk {number}: unchanged by its own account, and changed")
        for index, (was, now) in enumerate(zip(step.before, step.after, strict=True)):
            if index not in step.updates and torch.equal(was["positions"], now["positions"]):
                require(_same([was], [now]), f"chunk {number}: layer {index} was not to be updated, and changed")


def positions_are_ordered(trial: Trial) -> None:
    """Positions increase strictly along the cache (1-D), or no two tokens share one (M-RoPE)."""
    for number, step in enumerate(trial.recording.steps):
        for index, layer in enumerate(step.after):
            positions = layer["positions"]
            if positions.shape[0] == 1:
                good = bool((positions.diff(dim=-1) > 0).all())
            else:
                rows = positions.flatten(1, 2).unbind(1)
                good = all(row.unique(dim=1).shape[1] == row.shape[1] for row in rows)
            require(good, f"chunk {number}: layer {index} has two tokens at one position, or positions out of order")


def positions_stay_in_range(trial: Trial) -> None:
    """A bounded policy's positions stay below the decoder's range however long the stream is."""
    policy = trial.policy()
    if policy.bound != "bounded":
        return
    _, usable = trial.positions_in_use(policy)
    for number, step in enumerate(trial.recording.steps):
        for index, layer in enumerate(step.before):
            top = float(layer["positions"].max())
            require(top < usable, f"chunk {number}: layer {index} reaches position {top:g}, usable are {usable}")


def keys_are_rope_from_scratch(trial: Trial) -> None:
    """Held keys are the tokens' own, rotated to their recorded positions; values are the tokens' own."""
    recording = trial.recording
    for number, step in enumerate(recording.steps):
        for index, layer in enumerate(step.after):
            ids, kinds = Provenance(layer["tokens"]).id, Provenance(layer["tokens"]).kind
            heads = layer["keys"].shape[1]
            for head in range(heads):
                row = head if ids.shape[1] > 1 else 0
                own = (kinds[0, row] != int(Kind.SUMMARY)).nonzero().flatten()
                names = ids[0, row, own].tolist()
                where = f"chunk {number}: layer {index}, head {head}:"
                require(all(name in recording.keys[index] for name in names), f"{where} a token that was never written")
                plain = torch.stack([recording.keys[index][name][head] for name in names])
                value = torch.stack([recording.values[index][name][head] for name in names])
                require(torch.equal(layer["values"][0, head, own], value), f"{where} values that are not the tokens' own")
                expected = _rope(trial.backbone, plain, layer["positions"][:, 0, row, own])
                error = float((layer["keys"][0, head, own] - expected).abs().max() / plain.abs().max())
                require(error <= ROTATION_ERROR, f"{where} keys differ from RoPE at their positions by {error:.1e}")


def _rope(backbone: Backbone, keys: Tensor, positions: Tensor) -> Tensor:
    """Keys ``[T, D]`` rotated to positions ``[A, T]`` by the decoder's own rotary embedding."""
    where = positions if backbone.axes == 1 else positions[:, None]
    cos, sin = backbone.decoder.rotary_emb(keys[None], where)  # type: ignore[operator]
    first, second = keys.chunk(2, dim=-1)
    return torch.as_tensor(keys * cos[0] + torch.cat((-second, first), dim=-1) * sin[0])


def streams_are_deterministic(trial: Trial) -> None:
    """The same frames and seed give the same memory, bit for bit."""
    one, other = trial.streamed(), trial.streamed()
    require(_same(_state(one.memory), _state(other.memory)), "two runs with one seed hold different memories")


def dtype_and_device_are_preserved(trial: Trial) -> None:
    """In float16 and bfloat16 keys and values keep dtype and device, and everything stays finite."""
    for name in ("float16", "bfloat16"):
        config = replace(trial.backbone.config, dtype=name)  # type: ignore[arg-type]
        backbone = type(trial.backbone).load(config)
        session = trial.streamed(3, backbone)
        answer = session.ask("What is happening?", max_new_tokens=2) if _can_answer(session) else None
        for index, layer in enumerate(session.memory):
            for kind, tensor in (("keys", layer.keys), ("values", layer.values)):
                where = f"{name}: layer {index} has {kind}"
                require(tensor.dtype == backbone.dtype, f"{where} of {tensor.dtype}")
                require(tensor.device == backbone.device, f"{where} on {tensor.device}")
                require(bool(tensor.isfinite().all()), f"{where} that are not finite")
        require(answer is None or len(answer.ids) > 0, f"{name}: no answer")


def _can_answer(session: StreamSession) -> bool:
    return True


CLAUSES: Sequence[Callable[[Trial], None]] = ()


def check_policy(policy: str | MemoryPolicy, backbone: Backbone | None = None) -> None: ...
def over_policies(*more: str) -> pytest.MarkDecorator: ...
def over_clauses() -> pytest.MarkDecorator: ...
