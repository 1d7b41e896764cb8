"""Memory policies: what to keep, mix and re-index after a chunk, and what to do at a question."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool

from hermes.attention import AttentionProbe, Observer
from hermes.config import Part, check, settings_of
from hermes.dialogue import GuidancePrompts, Round
from hermes.errors import InputError, SettingError
from hermes.memory import KVMemory, LayerUpdate, join_updates
from hermes.parts import Lazy, Reindexer
from hermes.tokens import Chunk
from hermes.video import Frame

Bound = Literal["bounded", "growing", "unbounded"]


def _whole(last: Round) -> Round:
    return last


@dataclass
class StreamContext:
    """What a policy may know of the stream it serves; ``history`` and ``extent`` change as it runs.

    Attributes:
        num_layers, num_kv_heads: of the decoder.
        max_position: positions the decoder was built for.
        generator: random numbers of this stream, seeded.
        tokens_per_frame: tokens a frame of (height, width) pixels takes.
        axes: position axes of the decoder, 1 or 3.
        frames_per_group: frames encoded together; an incomplete group costs as much as a full one.
        template_tail: what the chat template writes after a question: its end and the start of the answer.
        extent: positions the last chunk took.
        history: rounds answered so far, the newest ``remembered``.
        guiding: what of a round guidance prompts show.
    """

    num_layers: int
    num_kv_heads: int
    max_position: int
    generator: torch.Generator
    tokens_per_frame: Callable[[int, int], int]
    axes: int = 1
    frames_per_group: int = 1
    template_tail: str = ""
    extent: int = 0
    history: list[Round] = field(default_factory=list)
    remembered: int = 100
    guiding: Callable[[Round], Round] = field(default_factory=lambda: _whole)

    def remember(self, answered: Round) -> None:
        """Let a round join the history."""
        self.history[:] = [*self.history, answered][-self.remembered :]

    @property
    def last_round(self) -> Round | None:
        """The last round as guidance prompts show it; None before any."""
        return self.guiding(self.history[-1]) if self.history else None


@dataclass
class Recall:
    """What a policy may work with at a question.

    Attributes:
        memory: a fork of the stream's memory; changes to it are dropped after the answer.
        question: the user's text.
        encode: ``encode(frames)`` prefills frames, or a chunk, at the end of ``memory``, or of ``into=``.
        observe: attention of any text over ``memory``.
    """

    memory: KVMemory
    question: str
    encode: Callable[..., None]
    observe: Observer


class MemoryPolicy(Part, ABC):
    """How a stream's memory is kept within its budget.

    Subclass it as a dataclass whose fields are the settings (``policy.*``), and
    implement :meth:`compress`; the other hooks are optional. A policy holds the state of one stream:
    :meth:`start` makes it fresh.
    """

    kind: ClassVar[str] = "policy"
    bound: ClassVar[Bound] = "bounded"
    unit: ClassVar[Literal["tokens", "frames"]] = "tokens"
    source: ClassVar[str] = "no paper"
    needs_attention: ClassVar[bool] = False
    # Whether streams of a batch may share it: not where they keep different numbers of a chunk's tokens, or
    # where it holds what a question needs of one stream.
    lockstep: ClassVar[bool] = True
    # Whether compress reads the layers, the settings and the last round alone and remembers nothing: a
    # recorded step may then stand for it (memory.execution=compile). A class with members of its own says so
    # anew.
    stateless: ClassVar[bool] = False

    budget: int
    context: StreamContext

    def start(self, context: StreamContext) -> None:
        """Begin a stream. Called once before the first chunk, and again after a reset."""
        self.context = context

    def admit(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Frames that are encoded into the memory; the others cost no vision and no prefill."""
        return frames

    def reduce(self, chunk: Chunk) -> Chunk:
        """Tokens of a chunk that the decoder reads.

        What it remembers is replaced, never changed in place: where the chunk then cannot be read, the
        session puts back what was, and the chunk comes again.
        """
        return chunk

    def watch(self) -> AttentionProbe | None:
        """A probe that sees the attention of each chunk as the decoder reads it; None costs nothing.

        Asked for before every chunk. A chunk may fail after some layers were seen: its tokens are then not
        in the memory, and it comes again.
        """
        return None

    @property
    def reads_again(self) -> bool:
        """Whether :meth:`compress` has each chunk read a second time (``observe.read_again``)."""
        return False

    @abstractmethod
    def compress(self, memory: KVMemory, observe: Observer) -> Mapping[int, LayerUpdate]:
        """After a chunk: what each layer keeps. Layers not named keep every token."""

    def archive(self, memory: KVMemory, updates: Mapping[int, LayerUpdate], observe: Observer) -> None:
        """Before an eviction: store elsewhere what a question may need of the memory as it is."""
        return None

    def recall(self, call: Recall) -> None:
        """At a question: change the fork that answers it; the stream's memory stays as it is."""
        return None

    def state(self) -> Mapping[str, torch.Tensor]:
        """What a saved stream must hold of the policy besides the memory; nothing by default."""
        return {}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up a state that :meth:`state` gave, after :meth:`start`."""
        return None

    @property
    def needs_saliency(self) -> bool:
        """Whether :meth:`reduce` reads the chunks' ``saliency``, which costs the vision encoder some time."""
        return False

    @property
    def needs_pixels(self) -> bool:
        """Whether it works on the pictures themselves, which a stream of texts does not have."""
        return self.needs_saliency

    @property
    def archived_bytes(self) -> int:
        """Bytes kept outside the memory, on the host or on disk; they may grow with the stream."""
        return 0

    @property
    def resident_bytes(self) -> int:
        """Bytes held beside the memory: tensors on the model's device, and raw frames."""
        return 0

    @property
    def reindexing(self) -> Reindexer:
        """When positions are compacted; ``self.reindex`` where the policy has such a setting."""
        own = getattr(self, "reindex", None)
        return own if isinstance(own, Reindexer) else Lazy()

    def step(self, memory: KVMemory, observe: Observer) -> bool:
        """Compress and re-index; returns whether the memory changed."""
        return compress_together([self], memory, observe)

    @property
    def repeats(self) -> bool:
        """Whether a recorded compression may stand for another: ``stateless``, said by the class itself."""
        cls = type(self)
        if self.reads_again:
            return False
        if not cls.stateless or cls.step is not MemoryPolicy.step or cls.archive is not MemoryPolicy.archive:
            return False
        said = next(kind for kind in cls.__mro__ if "stateless" in vars(kind))
        own = cls.__mro__[: cls.__mro__.index(said)]
        members = {name for kind in own for name in vars(kind).keys() - vars(kind).get("__annotations__", {})}
        return all(name.startswith(("__", "_abc_")) for name in members)

    def prompts_used(self) -> GuidancePrompts | None:
        """The guidance prompts, for the record of a run; None where there are none."""
        own = getattr(self, "prompts", None)
        return own if isinstance(own, GuidancePrompts) else None


def group_by_round(policies: Sequence[MemoryPolicy]) -> list[list[int]]:
    """Which streams compress alike: those whose last rounds, and so their guidance, are the same."""
    rounds: dict[str, list[int]] = {}
    for index, policy in enumerate(policies):
        rounds.setdefault(repr(policy.context.history[-1:]), []).append(index)
    return list(rounds.values())


def reindex_due(
    policies: Sequence[MemoryPolicy], memory: KVMemory, *, compressing: bool
) -> bool | Bool[torch.Tensor, " B"]:
    """Whether positions are to be compacted, or for which streams of a batch: each goes by its own.

    Args:
        policies: one a stream.
        compressing: whether this step evicts.
    """
    context, reindexer = policies[0].context, policies[0].reindexing

    def due(memory: KVMemory) -> bool:
        return reindexer.due(
            memory, compressing=compressing, max_position=context.max_position, extent=context.extent
        )

    whole = due(memory)
    if len(policies) == 1 or not whole:
        return whole
    each = [due(memory.select([index])) for index in range(len(policies))]
    return all(each) or torch.tensor(each)


def compress_together(policies: Sequence[MemoryPolicy], memory: KVMemory, observe: Observer) -> bool:
    """One step of a stream, or of streams in lockstep: compress, archive, evict and re-index.

    Args:
        policies: one a stream, all of one kind and of the same settings.
        memory: what all of them hold, a batch entry a stream.

    Returns:
        whether the memory changed.

    Raises:
        InputError: streams were asked different questions, and their policy keeps one state for all of them;
            or ``compress`` gave something else than it must.
    """
    groups = group_by_round(policies)
    if len(groups) > 1 and (policies[0].watch() is not None or policies[0].reads_again):
        raise InputError(
            "a policy that follows the chunks' attention keeps one state for all streams of a batch: "
            "ask all of them the same questions"
        )
    parts = []
    for group in groups:
        first, own = policies[group[0]], memory if len(groups) == 1 else memory.select(group)
        asked = observe if len(groups) == 1 else observe.over(own)
        parts.append(_checked_updates(first, first.compress(own, asked), len(memory.managed)))
        first.archive(own, parts[-1], asked)
    updates = parts[0] if len(groups) == 1 else join_updates(parts, groups)
    compact = reindex_due(policies, memory, compressing=bool(updates))
    memory.apply(updates, compact=compact)
    return bool(updates) or compact is not False


def check_policy(policy: object) -> None:
    """Refuse what is no policy, or has a setting that it cannot have, such as one that was changed later.

    Raises:
        SettingError: it names what is wrong.
    """
    if not isinstance(policy, MemoryPolicy):
        hint = "hermes.open_session takes a name, a mapping or a class as well."
        raise SettingError("policy", policy, "an instance of MemoryPolicy", hint)
    check(type(policy), policy, "policy")
    if policy.bound != "unbounded":
        check(int, getattr(policy, "budget", None), "policy.budget", {"ge": 1})


def with_budget(policy: MemoryPolicy, budget: int) -> MemoryPolicy:
    """The same settings with another budget.

    Raises:
        SettingError: a budget that it cannot have, or a policy without that setting.
    """
    if not is_dataclass(policy) or "budget" not in settings_of(type(policy)):
        raise SettingError("policy.budget", budget, f"no budget: {type(policy).__name__} has no such setting")
    given: Any = policy
    try:
        made: MemoryPolicy = replace(given, budget=budget)
    except SettingError as error:
        raise SettingError(f"policy.{error.where}", error.given, error.allowed, error.hint) from error
    return made


def wrong_result(part: object, method: str, given: object, needed: str) -> InputError:
    """The error for a method of a policy or part that gave something else than it must.

    >>> print(wrong_result(Lazy(), "due", torch.zeros(2, 3), "true or false"))
    Lazy.due gave a Tensor of shape (2, 3); needed: true or false
    """
    shape = f" of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else ""
    said = "None" if given is None else f"a {type(given).__name__}{shape}"
    return InputError(f"{type(part).__name__}.{method} gave {said}; needed: {needed}")


def _checked_updates(policy: MemoryPolicy, given: object, layers: int) -> Mapping[int, LayerUpdate]:
    needed = "a mapping from a layer's index to a LayerUpdate, such as {layer.index: layer.keeping(slots)}"
    if not isinstance(given, Mapping):
        raise wrong_result(policy, "compress", given, needed)
    for index, update in given.items():
        if not isinstance(update, LayerUpdate):
            raise wrong_result(policy, f"compress, for layer {index!r},", update, needed)
        if not isinstance(index, int) or not 0 <= index < layers:
            raise InputError(
                f"{type(policy).__name__}.compress names layer {index!r}; there are 0 to {layers - 1}"
            )
    return given


def check_budget(policy: MemoryPolicy, chunk: Chunk) -> None:
    """Refuse a budget that cannot hold one frame; one below a chunk is fine.

    Raises:
        SettingError: the budget is below the tokens of the chunk's first frame.
    """
    frame = chunk.tokens.frame
    cost = int((frame == frame[0]).sum()) if len(frame) else 0
    if policy.bound != "unbounded" and policy.budget < cost:
        raise SettingError("policy.budget", policy.budget, f"at least {cost}, the tokens of one frame")


def check_streams(policy: MemoryPolicy, streams: int) -> None:
    """Refuse a batch of streams for a policy whose streams cannot go in lockstep.

    Raises:
        SettingError: more than one stream, and the policy is not ``lockstep``.
    """
    if streams > 1 and not policy.lockstep:
        raise SettingError(
            "streams", streams, "1 for this policy", f"{type(policy).__name__} keeps streams of their own."
        )
