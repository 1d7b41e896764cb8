"""Answering from a fork of the memory with transformers' own ``generate``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from hermes.attention import AttentionProbe, memory_attention_set, reading
from hermes.backbone import Backbone
from hermes.config import Settings, setting
from hermes.errors import SettingError
from hermes.memory import KVMemory

# What `generate` is given by us, or cannot do over a memory.
_NOT_OPTIONS = (
    "attention_mask",
    "input_ids",
    "inputs_embeds",
    "num_return_sequences",
    "past_key_values",
    "position_ids",
    "prefill_chunk_size",
    "return_dict_in_generate",
    "use_cache",
)


@dataclass
class GenerationConfig(Settings):
    """How answers are generated (settings ``generation.*``).

    Greedy decoding and the penalty are those of arXiv 2601.14724.
    """

    max_new_tokens: int = setting(128, help="longest answer", unit="tokens", ge=1)
    repetition_penalty: float = setting(1.1, help="over generated tokens only, as in the method", gt=0)
    do_sample: bool = setting(False, help="sample instead of greedy decoding")
    temperature: float = setting(1.0, help="of sampling", gt=0)
    top_p: float = setting(1.0, help="nucleus of sampling", gt=0, le=1)
    num_beams: int = setting(1, help="beams; more than one gives no token streaming", ge=1)


@dataclass(frozen=True)
class Generated:
    """One answer's tokens, first-token logits and timing in seconds."""

    ids: Int[Tensor, " n"]
    first_logits: Float[Tensor, " vocab"]
    ttft: float
    tpot: float | None


class GeneratedRepetitionPenalty(LogitsProcessor):  # type: ignore[misc]
    """Repetition penalty over generated tokens, the prompt left out.

    Source: arXiv 2601.14724 (greedy decoding, penalty 1.1 over generated tokens only); transformers' own
    penalises the prompt's tokens too.

    >>> penalty = GeneratedRepetitionPenalty(2.0, prompt_length=1)
    >>> penalty(torch.tensor([[0, 1]]), torch.tensor([[1.0, 1.0, -1.0]])).tolist()
    [[1.0, 0.5, -1.0]]
    """

    def __init__(self, penalty: float, prompt_length: int) -> None:
        self.penalty = penalty
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        seen = input_ids[:, self.prompt_length :]
        if seen.shape[1] == 0:
            return scores
        picked = scores.gather(1, seen)
        picked = torch.where(picked < 0, picked * self.penalty, picked / self.penalty)
        return scores.scatter(1, seen, picked)


class _FirstLogits(LogitsProcessor):  # type: ignore[misc]
    """Keeps the first token's raw logits, over which an option letter is chosen."""

    logits: Tensor

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not hasattr(self, "logits"):
            self.logits = scores[0].float()
        return scores


class TokenClock(BaseStreamer):  # type: ignore[misc]
    """Notes when each token arrives and passes it on as text."""

    def __init__(
        self, backbone: Backbone, on_text: Callable[[str], None] | None, other: BaseStreamer | None = None
    ) -> None:
        self.backbone = backbone
        self.other = other
        self.on_text = on_text
        self.times: list[float] = []
        self.ids: list[int] = []
        self.shown = ""
        self.prompt_seen = False

    def put(self, value: Tensor) -> None:
        """Take the next token, or first the prompt; called by transformers."""
        if self.other is not None:
            self.other.put(value)
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        self.times.append(time.perf_counter())
        if self.on_text is None:
            return
        self.ids += value.flatten().tolist()
        text = self.backbone.decode(torch.tensor(self.ids))
        # A character that is not complete yet waits for its other bytes.
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._show(text)

    def end(self) -> None:
        """Show what is left of the text; called by transformers."""
        if self.ids:
            self._show(self.backbone.decode(torch.tensor(self.ids)))
        if self.other is not None:
            self.other.end()

    def _show(self, text: str) -> None:
        if self.on_text is not None and len(text) > len(self.shown):
            self.on_text(text[len(self.shown) :])
            self.shown = text


class Draws:
    """The random numbers of one answer, seeded; its own, as the global ones are every thread's."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator: torch.Generator | None = None

    def on(self, device: torch.device) -> torch.Generator:
        """The generator, on the device where tokens are drawn."""
        if self._generator is None:
            self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator


class _Drawing(TorchFunctionMode):
    """Tokens are drawn from an answer's own random numbers wherever ``generate`` draws."""

    def __init__(self, draws: Draws) -> None:
        super().__init__()
        self.draws = draws

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.multinomial:
            given["generator"] = self.draws.on(args[0].device)
        return func(*args, **given)


def chooser(
    config: GenerationConfig,
    processors: Sequence[LogitsProcessor],
    prompt_length: int,
    draws: Draws,
) -> Callable[[Tensor, Tensor], Tensor]:
    """What turns ids ``[B, n]`` and logits ``[B, vocab]`` into tokens ``[B, 1]``."""
    chain = LogitsProcessorList(processors)
    if config.repetition_penalty != 1:
        chain.append(GeneratedRepetitionPenalty(config.repetition_penalty, prompt_length))
    if config.do_sample and config.temperature != 1:
        chain.append(TemperatureLogitsWarper(config.temperature))
    if config.do_sample and config.top_p < 1:
        chain.append(TopPLogitsWarper(config.top_p))

    def choose(ids: Tensor, logits: Tensor) -> Tensor:
        scores = chain(ids, logits.float())
        if config.do_sample:
            return torch.multinomial(scores.softmax(-1), 1, generator=draws.on(scores.device))
        best: Tensor = scores.argmax(-1, keepdim=True)
        return best

    return choose


def stop_tokens(model: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    given = model.generation_config.eos_token_id
    return frozenset([] if given is None else given if isinstance(given, list) else [given])


def with_options(
    config: GenerationConfig, options: Mapping[str, Any]
) -> tuple[GenerationConfig, dict[str, Any]]:
    """The settings with those replaced that options name, and the other options.

    Raises:
        SettingError: an option that is not the caller's, such as ``use_cache``.

    >>> with_options(GenerationConfig(), {"max_new_tokens": 4, "min_length": 2})[1]
    {'min_length': 2}
    """
    for name in options.keys() & set(_NOT_OPTIONS):
        raise SettingError(
            f"generation.{name}", options[name], "options that leave the memory and the prompt alone"
        )
    own = {field.name for field in fields(config)} & options.keys()
    rest = {name: value for name, value in options.items() if name not in own}
    return replace(config, **{name: options[name] for name in own}), rest


@torch.no_grad()
def generate(
    backbone: Backbone,
    memory: KVMemory,
    ids: Int[Tensor, "1 q"],
    config: GenerationConfig,
    *,
    started: float | None = None,
    probe: AttentionProbe | None = None,
    on_text: Callable[[str], None] | None = None,
    seed: int = 0,
    processors: Sequence[LogitsProcessor] = (),
    **options: Any,
) -> Generated:
    """Answer from ``memory``, which is written to: pass a fork.

    Args:
        ids: the question's tokens.
        started: when the question came (``time.perf_counter``), from which TTFT counts; now by default.
        probe: watches the question's attention.
        on_text: called with each new piece of the answer.
        seed: of sampling.
        processors: applied to the raw logits, before the repetition penalty.
        options: settings that replace those of ``config``, and anything else ``generate`` takes.

    Returns:
        the answer's tokens without the prompt, and its timing.

    Raises:
        SettingError: an option that is not the caller's, such as ``use_cache``.
    """
    config, options = with_options(config, options)
    started = time.perf_counter() if started is None else started
    start, length = memory.next_position, ids.shape[1]
    positions = torch.arange(start, start + length, device=ids.device).unsqueeze(0)
    mask = torch.ones(1, start + length, dtype=torch.long, device=ids.device)
    streamer = options.pop("streamer", None)
    clock = TokenClock(backbone, on_text, streamer) if config.num_beams == 1 else None
    if config.num_beams > 1:
        memory.batch_repeat_interleave(config.num_beams)
    first = _FirstLogits()
    chain = LogitsProcessorList([first, *processors, *options.pop("logits_processor", ())])
    if "stop_strings" in options:
        options.setdefault("tokenizer", backbone.tokenizer)
    if config.repetition_penalty != 1:
        chain.append(GeneratedRepetitionPenalty(config.repetition_penalty, length))
    sampling = (
        {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        if config.do_sample
        else {
            # The checkpoint's own sampling defaults do not apply to greedy decoding.
            "temperature": None,
            "top_p": None,
            "top_k": None,
        }
    )
    drawing = _Drawing(Draws(seed)) if config.do_sample else nullcontext()
    with memory_attention_set(backbone.model), reading(memory, probe), drawing:
        out = backbone.model.generate(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=memory,
            max_new_tokens=config.max_new_tokens,
            do_sample=config.do_sample,
            num_beams=config.num_beams,
            repetition_penalty=1.0,
            logits_processor=chain,
            streamer=clock,
            **{**sampling, **options},
        )
    times = clock.times if clock is not None else [time.perf_counter()]
    tpot = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None
    return Generated(out[0, length:], first.logits, times[0] - started, tpot)
