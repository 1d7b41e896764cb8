"""Short streams of noise to try a policy on, and a recording of what it did to the memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hermes.attention import Observer
from hermes.backbone import Backbone, load_backbone
from hermes.config import build, to_dict
from hermes.decoding.generation import GenerationConfig
from hermes.errors import HermesError
from hermes.memory import KVMemory, LayerUpdate
from hermes.policy import MemoryPolicy
from hermes.session.session import Callback, StreamSession
from hermes.tokens import Chunk, VideoState
from hermes.video import Caption, Frame

__all__ = [
    "CHUNKS",
    "CHUNK_FRAMES",
    "ContractError",
    "LayerStep",
    "Recording",
    "State",
    "Step",
    "Trial",
    "copy_state",
    "managed",
    "require",
    "same",
]

CHUNK_FRAMES = 4
CHUNKS = 5

# Per layer, by name: a copy of everything the memory holds; managed layers first, then the others.
State = list[dict[str, Tensor]]


class ContractError(HermesError, AssertionError):
    """A policy breaks a clause of the contract."""


def require(condition: bool, message: str) -> None:
    """Say what is broken where something is.

    Raises:
        ContractError: the condition is not met.
    """
    if not condition:
        raise ContractError(message)


def copy_state(memory: KVMemory) -> State:
    """A copy of everything a memory holds."""
    layers = (*memory, *memory.states)
    return [{name: tensor.clone() for name, tensor in layer.tensors().items()} for layer in layers]


def managed(state: State) -> State:
    """The part of a state that a policy decides on."""
    return [layer for layer in state if "positions" in layer]


def same(one: State, other: State) -> bool:
    """Whether two states are alike, bit for bit."""
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def fingerprint(model: Any) -> list[object]:
    """Attention implementation, hooks, attributes and mode of every module, and more."""
    modules = [
        (
            getattr(getattr(module, "config", None), "_attn_implementation", None),
            [len(value) for name, value in vars(module).items() if name.endswith("_hooks")],
            sorted(vars(module)),
            module.training,
        )
        for module in model.modules()
    ]
    gradients = [weight.requires_grad for weight in model.parameters()]
    return [modules, gradients, model.generation_config.to_dict()]


@dataclass(frozen=True)
class Step:
    """The memory before and after the compression that follows one chunk."""

    before: State
    after: State
    updates: Mapping[int, LayerUpdate]
    changed: bool


@dataclass(frozen=True)
class LayerStep:
    """One layer of one step; ``where`` names the two in messages."""

    where: str
    index: int
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    update: LayerUpdate | None


@dataclass(frozen=True)
class Recording:
    """A stream's steps, and per layer every token's key (before rotation) and value by id."""

    steps: list[Step]
    prefix: int
    keys: list[dict[int, Tensor]]
    values: list[dict[int, Tensor]]

    def layers(self) -> Iterator[LayerStep]:
        """Every layer of every step."""
        for number, step in enumerate(self.steps):
            pairs = zip(managed(step.before), managed(step.after), strict=True)
            for index, (before, after) in enumerate(pairs):
                yield LayerStep(
                    f"chunk {number}, layer {index}", index, before, after, step.updates.get(index)
                )


class Trial:
    """A policy on a backbone, with short streams of noise to try it on.

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
        # A first session checks the model, for which transformers installs hooks of its own for good.
        self.session()
        self.found = fingerprint(self.backbone.model)

    def frames(self, count: int, seed: int = 0) -> list[Frame]:
        """Frames of noise, sampled at the backbone's rate; of a text model, texts of random figures."""
        random = np.random.default_rng(seed)
        if not self.backbone.sees:
            figures = random.integers(0, 10, (count, 9))
            texts = ("".join(map(str, row)) for row in figures)
            return [Caption(i / self.backbone.fps, i, text=text) for i, text in enumerate(texts)]
        images = [random.integers(0, 256, (84, 84, 3), dtype=np.uint8) for _ in range(count)]
        return [Frame(image, index / self.backbone.fps, index) for index, image in enumerate(images)]

    def policy(self, spec: object = None) -> MemoryPolicy:
        """A fresh instance, of other settings if they are given."""
        return build(MemoryPolicy, spec or self.spec, "policy")  # type: ignore[type-abstract]

    def session(self, callbacks: Sequence[Callback] = (), backbone: Backbone | None = None) -> StreamSession:
        """A fresh session with a fresh policy and short answers."""
        return StreamSession(
            self.backbone if backbone is None else backbone,
            self.policy(),
            chunk_frames=CHUNK_FRAMES,
            generation=GenerationConfig(max_new_tokens=4),
            callbacks=callbacks,
        )

    def streamed(self, chunks: int = CHUNKS, backbone: Backbone | None = None) -> StreamSession:
        """A session that has seen so many chunks."""
        session = self.session(backbone=backbone)
        session.feed(self.frames(chunks * CHUNK_FRAMES))
        return session

    def chunks(self, count: int, seed: int) -> list[Chunk]:
        """Chunks of another stream, encoded but not read."""
        state = VideoState()
        self.backbone.prefix(state)
        frames = self.frames(count * CHUNK_FRAMES, seed)
        cuts = [frames[at : at + CHUNK_FRAMES] for at in range(0, len(frames), CHUNK_FRAMES)]
        return [self.backbone.video(cut, state, fps=self.backbone.fps) for cut in cuts]

    def allowed(self, policy: MemoryPolicy) -> list[int]:
        """Video tokens each layer may hold."""
        budgets: Callable[[int], list[int]] | None = getattr(policy, "budgets", None)
        layers = self.backbone.num_layers
        return [policy.budget] * layers if budgets is None else budgets(layers)

    def position_limits(self, policy: MemoryPolicy) -> tuple[int, int]:
        """A range for the decoder so small that positions must be re-indexed, and how much of it may be used.

        Of a margin that the re-indexer leaves free, one chunk and a summary may be in use, as in the release.
        """
        margin = int(getattr(policy.reindexing, "margin", 0))
        prefix = self.backbone.prefix(VideoState()).advance
        room = prefix + self.budget + 3 * self.advance + 8
        return room + margin, room + min(margin, self.advance + 2)

    @cached_property
    def usual(self) -> State:
        """What is held after the usual number of chunks, in a session that nothing else was done to."""
        return copy_state(self.streamed().memory)

    @cached_property
    def recording(self) -> Recording:
        """A stream long enough for eviction and re-indexing, recorded."""
        recorder = _Recorder(self.backbone)
        session = self.session([recorder])
        session.context.max_position, usable = self.position_limits(session.policy)
        recorder.watch(session.policy)
        chunks = math.ceil(usable / self.advance) + 3
        with recorder.hooked():
            session.feed(self.frames(chunks * CHUNK_FRAMES))
        return Recording(recorder.steps, session.memory.prefix, recorder.keys, recorder.values)


class _Recorder(Callback):
    """Copies the memory around every compression, and collects each token's key before it was rotated.

    What goes into a layer is noted as it is read, and projected again afterwards.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.steps: list[Step] = []
        self.keys: list[dict[int, Tensor]] = []
        self.values: list[dict[int, Tensor]] = []
        # What each managed layer was given since the last step, [1, n, hidden].
        self._given: list[list[Tensor]] = [[] for _ in backbone.managed]
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
    def hooked(self) -> Iterator[None]:
        layers: Any = self.backbone.decoder.layers
        handles = [
            layers[number].register_forward_pre_hook(self._keeper(given), with_kwargs=True)
            for number, given in zip(self.backbone.managed, self._given, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keeper(self, given: list[Tensor]) -> Callable[..., None]:
        def keep(module: Any, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
            given.append(args[0] if args else options["hidden_states"])

        return keep

    def on_encode_start(self, session: StreamSession, frames: Sequence[Frame]) -> None:
        if not self.keys:
            self.keys = [{} for _ in session.memory]
            self.values = [{} for _ in session.memory]

    def on_encode_end(self, session: StreamSession, chunk: Chunk) -> None:
        self._before, self._updates = copy_state(session.memory), {}
        for index, layer in enumerate(session.memory):
            if not self._given[index]:
                continue  # nothing of the chunk was read
            # The chunk, and before the first one the prefix.
            with torch.no_grad():
                _, keys = self.backbone.project(index, torch.cat(self._given[index], dim=1))
            count = keys.shape[2]
            ids = layer.origin.id[0, 0, -count:].tolist()
            self.keys[index].update(zip(ids, keys[0].unbind(1), strict=True))
            self.values[index].update(zip(ids, layer.values[0, :, -count:].unbind(1), strict=True))

    def on_compress_end(self, session: StreamSession, changed: bool) -> None:
        self.steps.append(Step(self._before, copy_state(session.memory), self._updates, changed))
        for given in self._given:
            # Projections and guidance passes went through here too.
            given.clear()
