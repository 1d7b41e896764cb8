"""The contract that every memory policy keeps, clause by clause: for ours, and for yours."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from hermes.backbone import Backbone, Chunk, VideoState
from hermes.config import build, config_hash, to_dict
from hermes.errors import HermesError
from hermes.generation import GenerationConfig
from hermes.loading import load_backbone
from hermes.memory import KVMemory, LayerUpdate
from hermes.observe import Observer
from hermes.policy import MemoryPolicy
from hermes.provenance import Kind, Provenance
from hermes.registry import registry
from hermes.session import Callback, StreamSession
from hermes.storage import load_memory
from hermes.video import Frame

if TYPE_CHECKING:
    import pytest

__all__ = ["CLAUSES", "ContractError", "Trial", "check_policy", "over_clauses", "over_policies"]

CHUNK_FRAMES = 4
QUESTION = "What is happening?"
# Relative to the largest key: float32 rotations, one a re-indexing.
ROTATION_ERROR = 1e-4

State = list[dict[str, Tensor]]  # per layer, by name: a copy of everything the memory holds


class ContractError(HermesError, AssertionError):
    """A policy breaks a clause of the contract (this project)."""


def require(condition: bool, message: str) -> None:
    """Raise a ContractError unless a condition holds (this project)."""
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
        short = GenerationConfig(max_new_tokens=4)
        return StreamSession(model, self.policy(), chunk_frames=CHUNK_FRAMES, generation=short, callbacks=callbacks)

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

    def limits(self, policy: MemoryPolicy) -> tuple[int, int]:
        """A decoder's range so small that positions must be re-indexed, and how much of it may be in use.

        Of a margin that the re-indexer leaves free, one chunk and a summary may be in use, as in the release.
        """
        margin = int(getattr(policy.reindexing, "margin", 0))
        prefix = self.backbone.prefix(VideoState()).advance
        room = prefix + self.budget + 3 * self.advance + 8
        return room + margin, room + min(margin, self.advance + 2)

    @cached_property
    def recording(self) -> Recording:
        """A stream long enough for eviction and re-indexing, recorded."""
        recorder = _Recorder()
        session = self.session([recorder])
        session.context.max_position, usable = self.limits(session.policy)
        recorder.watch(session.policy)
        chunks = math.ceil(usable / self.advance) + 3
        with recorder.hooked(self.backbone):
            session.feed(self.frames(chunks * CHUNK_FRAMES))
        return Recording(recorder.steps, session.memory.prefix, recorder.keys, recorder.values)


class _FirstLogits(LogitsProcessor):  # type: ignore[misc]
    seen: Tensor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen = scores
        return scores


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
            was, count = (layers[index]["keys"].shape[2] - trial.recording.prefix for layers in (step.before, step.after))
            limit = min(was, trial.allowed(policy)[index])
            require(count == limit, f"chunk {number}: layer {index} keeps {count} video tokens and could keep {limit}")


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
            head = torch.arange(trial.recording.prefix, device=keep.device)
            require(bool((keep[..., : len(head)] == head).all()), f"{where} not all of the prefix")
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
    _, usable = trial.limits(policy)
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
        first = _FirstLogits()
        session.ask(QUESTION, processors=[first])
        require(bool(first.seen.isfinite().all()), f"{name}: the answer's logits are not finite")
        for index, layer in enumerate(session.memory):
            for kind, tensor in (("keys", layer.keys), ("values", layer.values)):
                where = f"{name}: layer {index} has {kind}"
                require(tensor.dtype == backbone.dtype, f"{where} of {tensor.dtype}")
                require(tensor.device == backbone.device, f"{where} on {tensor.device}")
                require(bool(tensor.isfinite().all()), f"{where} that are not finite")


def streams_in_a_batch_are_independent(trial: Trial) -> None:
    """Two streams in lockstep each hold what they hold alone."""
    streams = [_chunks(trial, seed) for seed in (1, 2)]
    together, *alone = (trial.session() for _ in range(3))
    for pair in zip(*streams, strict=True):
        together.feed_chunk(_stacked(pair))
        for session, chunk in zip(alone, pair, strict=True):
            session.feed_chunk(chunk)
    for stream, session in enumerate(alone):
        for index, (both, one) in enumerate(zip(_state(together.memory), _state(session.memory), strict=True)):
            where = f"stream {stream} of 2: layer {index} holds other"
            for name, axis in (("tokens", 1), ("positions", 1), ("keys", 0), ("values", 0)):
                ours, expected = both[name].narrow(axis, stream, 1).float(), one[name].float()
                require(ours.shape == expected.shape, f"{where} {name}: {tuple(ours.shape)}, {tuple(expected.shape)}")
                limit = ROTATION_ERROR * float(expected.abs().max()) if name in ("keys", "values") else 0.0
                require(float((ours - expected).abs().max()) <= limit, f"{where} {name} than alone")


def _chunks(trial: Trial, seed: int) -> list[Chunk]:
    state = VideoState()
    trial.backbone.prefix(state)
    frames = trial.frames(4 * CHUNK_FRAMES, seed)
    cuts = range(0, len(frames), CHUNK_FRAMES)
    fps = trial.backbone.fps
    return [trial.backbone.video(frames[at : at + CHUNK_FRAMES], state, fps=fps) for at in cuts]


def _stacked(chunks: Sequence[Chunk]) -> Chunk:
    deepstack = tuple(torch.cat(levels) for levels in zip(*(chunk.deepstack for chunk in chunks), strict=True))
    return replace(chunks[0], embeds=torch.cat([chunk.embeds for chunk in chunks]), deepstack=deepstack)


def model_is_left_as_found(trial: Trial) -> None:
    """Nothing stays on the model after a session is closed, or after an exception; the memory stays whole."""
    model, found = trial.backbone.model, _fingerprint(trial.backbone.model)
    frames = trial.frames(5 * CHUNK_FRAMES)
    middle = trial.backbone.decoder.layers[trial.backbone.num_layers // 2]  # type: ignore[index]
    for entered in (False, True):
        session = trial.session()
        with session if entered else nullcontext():
            session.feed(frames[: 2 * CHUNK_FRAMES])
            before = _state(session.memory)
            for what, act in (
                ("answering", lambda: session.ask(QUESTION)),
                ("encoding", lambda: session.feed(frames[2 * CHUNK_FRAMES : 3 * CHUNK_FRAMES])),
            ):
                with suppress(_Failure), _failing(middle):
                    act()
                require(_same(before, _state(session.memory)), f"an exception while {what} changed the memory")
            vars(session.policy)["compress"] = _fail
            with suppress(_Failure):
                session.feed(frames[3 * CHUNK_FRAMES : 4 * CHUNK_FRAMES])
            del vars(session.policy)["compress"]
            require(not any(layer.pending for layer in session.memory), "an exception left pending tokens")
            session.feed(frames[4 * CHUNK_FRAMES :])
            session.ask(QUESTION)
        how = "closed" if entered else "used"
        require(_fingerprint(model) == found, f"the model is not as it was before the session was {how}")
        for layer, limit in zip(session.memory, trial.allowed(session.policy), strict=True):
            over = session.policy.bound == "bounded" and layer.video_length > limit
            require(not over, f"after an exception layer {layer.index} stays over its budget")


class _Failure(Exception):
    pass


def _fail(*args: object) -> None:
    raise _Failure


@contextmanager
def _failing(module: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(_fail)
    try:
        yield
    finally:
        handle.remove()


def _fingerprint(model: Any) -> list[object]:
    """Attention implementations, hooks, attributes and modes of every module, and generation settings."""
    modules = [
        (
            getattr(getattr(module, "config", None), "_attn_implementation", None),
            [len(value) for name, value in vars(module).items() if name.endswith("_hooks")],
            sorted(vars(module)),
            module.training,
        )
        for module in model.modules()
    ]
    return [modules, [weight.requires_grad for weight in model.parameters()], model.generation_config.to_dict()]


def reset_is_fresh(trial: Trial) -> None:
    """After a reset the same frames give the same memory as in a new session."""
    session = trial.streamed()
    session.ask(QUESTION)
    session.reset()
    require(session.memory.lengths == [0] * trial.backbone.num_layers, "a reset leaves tokens in the memory")
    session.feed(trial.frames(5 * CHUNK_FRAMES))
    require(_same(_state(session.memory), _state(trial.streamed().memory)), "a reset leaves state behind")


def settings_round_trip(trial: Trial) -> None:
    """A policy built from its own settings equals it, and has the same hash."""
    policy = trial.policy()
    policy.start(trial.session().context)
    again = build(MemoryPolicy, to_dict(policy), "policy")  # type: ignore[type-abstract]
    require(again == policy, f"settings do not come back: {to_dict(again)} from {to_dict(policy)}")
    require(config_hash(again) == config_hash(policy), "the hash of the settings changes")


def saved_memory_goes_on(trial: Trial) -> None:
    """A memory comes back from disk bit-identical, and streaming goes on as if it had not been away."""
    frames = trial.frames(5 * CHUNK_FRAMES)
    session = trial.streamed(3)
    with tempfile.TemporaryDirectory() as folder:
        session.memory.save(folder)
        loaded = load_memory(folder, trial.backbone.rotary, trial.backbone.device)
    require(_same(_state(session.memory), _state(loaded)), "the memory comes back different")
    session.memory, session.observer = loaded, Observer(trial.backbone, loaded)
    session.feed(frames[3 * CHUNK_FRAMES :])
    require(_same(_state(session.memory), _state(trial.streamed().memory)), "streaming goes on differently")


def question_leaves_the_memory(trial: Trial) -> None:
    """A question changes nothing, bit for bit; asked again with the same seed it has the same answer."""
    session = trial.streamed()
    before = _state(session.memory)
    answers = [session.ask(QUESTION).ids.tolist() for _ in range(2)]
    require(_same(before, _state(session.memory)), "a question changes the memory")
    require(answers[0] == answers[1], f"the same question has two answers, {answers[0]} and {answers[1]}")


CLAUSES: Sequence[Callable[[Trial], None]] = (
    budget_is_kept,
    lengths_are_as_declared,
    prefix_is_kept,
    kept_indices_are_valid,
    untriggered_memory_is_untouched,
    positions_are_ordered,
    positions_stay_in_range,
    keys_are_rope_from_scratch,
    streams_are_deterministic,
    dtype_and_device_are_preserved,
    streams_in_a_batch_are_independent,
    model_is_left_as_found,
    reset_is_fresh,
    settings_round_trip,
    saved_memory_goes_on,
    question_leaves_the_memory,
)


def check_policy(policy: str | MemoryPolicy, backbone: Backbone | None = None) -> None:
    """Hold a policy to the contract.

    Source: this project.

    Args:
        policy: a registered name, a dotted path such as ``my_module.MyPolicy``, or an instance, whose settings
            are kept but for the budget.
        backbone: a loaded model; the tiny random LLaVA-OneVision by default.

    Raises:
        ContractError: with every clause that is broken, and how.

    >>> check_policy("fifo")
    """
    trial = Trial(policy, backbone)
    broken = []
    for clause in CLAUSES:
        try:
            clause(trial)
        except ContractError as error:
            broken.append(f"{clause.__name__}: {error}")
    if broken:
        raise ContractError("\n".join(broken))


def over_policies(*more: str) -> pytest.MarkDecorator:
    """Run a pytest test once for every registered policy, and for those named besides, as ``policy``.

    Source: this project.

    >>> @over_policies("my_module.MyPolicy")
    ... @over_clauses()
    ... def test_policy(policy, clause):
    ...     clause(Trial(policy))
    """
    import pytest

    return pytest.mark.parametrize("policy", [*registry("policy").names(), *more])


def over_clauses() -> pytest.MarkDecorator:
    """Run a pytest test once for every clause of the contract, as ``clause`` (this project)."""
    import pytest

    return pytest.mark.parametrize("clause", CLAUSES, ids=lambda clause: clause.__name__)
