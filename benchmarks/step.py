"""Time of a streaming step and of the first token, against the plain transformers decoder, in one run.

``python -m benchmarks.step`` builds a mid-size random model (12 layers, hidden 256, 4 query and 2 KV heads),
fills a memory of 1 000 video tokens, and times on one thread, interleaved round by round:

- *plain*: the decoder's forward of a 512-token chunk on a ``DynamicCache`` of the same length;
- *embedding*, *exact*: prefill of the same chunk and compression by ``hermes`` with either probe;
- *release*: the same by ``hermes_release``;
- *compile*: the same steps recorded and compiled (``memory.execution=compile``);
- *generate*, *static*: the decoder's forward of a 20-token question (*plain*), against ``session.ask`` up to
  its first token, through ``generate`` and in place.
"""

from __future__ import annotations

import copy
import time
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.contest import Times, run
from hermes.backbone import Backbone, BackboneConfig
from hermes.backbones.tiny import TinyLlavaOnevision
from hermes.decoding.execution import Execution
from hermes.decoding.generation import GenerationConfig
from hermes.memory import ExecutionMode, MemoryConfig
from hermes.parts import Blend, GuidedAttention
from hermes.policies.hermes import Hermes
from hermes.policies.hermes_release import HermesRelease
from hermes.policy import TieredPolicy
from hermes.session.session import StreamSession
from hermes.tokens import Chunk, Provenance

BUDGET, PREFIX, CHUNK, PER_FRAME, QUESTION = 1000, 21, 512, 64, 20
# Rounds that fill the memories and record the steps.
WARM = 8
# Tokens of the local, global and mixed guidance prompts.
PROMPTS = {"local": 30, "global": 31, "mixed": 63}
# The release on the same model, machine and prompts, as ratios to the same plain forward.
RELEASE = {"embedding": 1.25, "exact": 1.60, "generate": 1.05, "static": 1.05}


class MidLlavaOnevision(TinyLlavaOnevision):
    """A random LLaVA-OneVision of 12 layers and 64 tokens a frame."""

    text: ClassVar[dict[str, Any]] = {
        **TinyLlavaOnevision.text,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 12,
    }
    vision: ClassVar[dict[str, Any]] = {
        **TinyLlavaOnevision.vision,
        "hidden_size": 64,
        "image_size": 224,
        "patch_size": 14,
    }


class FixedPrompts(MidLlavaOnevision):
    """Stands in token ids of fixed lengths for the texts, so that the figures do not hang on a tokenizer."""

    def encode(self, text: str) -> Tensor:
        kinds = {self.prompts.render(kind): length for kind, length in PROMPTS.items()}
        length = kinds.get(text, PREFIX if text == self.prefix_text() else QUESTION)
        ids = torch.arange(PROMPTS["mixed"] + 1)
        # The mixed prompt begins with the local one; the global one has ids of its own.
        start = 200 if length == PROMPTS["global"] else 100
        return (start + ids[:length]).unsqueeze(0)

    prompts = Hermes().prompts


def embedding_probe(policy: TieredPolicy) -> TieredPolicy:
    """The policy with every guided attention read from the prompts' embeddings."""
    policy = copy.deepcopy(policy)
    for tier in policy.tiers.values():
        scorer = tier.scorer.first if isinstance(tier.scorer, Blend) else tier.scorer
        if isinstance(scorer, GuidedAttention):
            scorer.probe = "embedding"
    return policy


def chunk(number: int, generator: torch.Generator, hidden: int) -> Chunk:
    frames = CHUNK // PER_FRAME
    frame = number * frames + torch.arange(CHUNK) // PER_FRAME
    tokens = Provenance.of(CHUNK, id=number * CHUNK + torch.arange(CHUNK), frame=frame, kind=1)
    embeds = torch.randn(1, CHUNK, hidden, generator=generator)
    return Chunk(embeds, torch.arange(float(CHUNK))[None], CHUNK, tokens, frames)


class Plain:
    """The stock decoder on a dynamic cache of the memory's steady length."""

    def __init__(self, backbone: Backbone, generator: torch.Generator) -> None:
        self.decoder = backbone.decoder
        self.config = backbone.text_config
        heads, dim = backbone.num_kv_heads, self.config.hidden_size // self.config.num_attention_heads
        self.held = [
            tuple(torch.randn(1, heads, PREFIX + BUDGET, dim, generator=generator) for _ in range(2))
            for _ in range(backbone.num_layers)
        ]

    @torch.no_grad()
    def __call__(self, embeds: Tensor) -> float:
        cache = DynamicCache(config=self.config)
        for layer, (keys, values) in enumerate(self.held):
            cache.update(keys, values, layer)
        positions = torch.arange(PREFIX + BUDGET, PREFIX + BUDGET + embeds.shape[1])[None]
        started = time.perf_counter()
        self.decoder(inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True)
        return time.perf_counter() - started


def measure(rounds: int) -> Times:
    """Seconds per round of every contestant, interleaved."""
    generator = torch.Generator().manual_seed(0)
    backbone = FixedPrompts.load(BackboneConfig(family="mid", seed=0))
    hidden = backbone.text_config.hidden_size
    plain = Plain(backbone, generator)
    policies: dict[str, tuple[TieredPolicy, ExecutionMode]] = {
        "embedding": (embedding_probe(Hermes(budget=BUDGET)), "eager"),
        "exact": (Hermes(budget=BUDGET), "eager"),
        "release": (HermesRelease(budget=BUDGET), "eager"),
        "embedding, compile": (embedding_probe(Hermes(budget=BUDGET)), "compile"),
        "exact, compile": (Hermes(budget=BUDGET), "compile"),
    }
    generation = GenerationConfig(max_new_tokens=1)
    sessions = {
        name: StreamSession(backbone, policy, generation=generation, memory=MemoryConfig(execution=mode))
        for name, (policy, mode) in policies.items()
    }
    questions = {"generate": Execution(backbone), "static": Execution(backbone, "static")}
    step, ask = f"chunk of {CHUNK} tokens", f"question of {QUESTION} tokens"
    times: dict[tuple[str, str], list[float]] = {}
    question = torch.randn(1, QUESTION, hidden, generator=generator)
    for number in range(rounds + WARM):
        piece = chunk(number, generator, hidden)
        row: dict[tuple[str, str], float] = {(step, "plain"): plain(piece.embeds)}
        for name, session in sessions.items():
            with session:
                started = time.perf_counter()
                session.feed_chunk(piece)
                row[step, name] = time.perf_counter() - started
        row[ask, "plain"] = plain(question)
        with sessions["exact"] as session:
            for name, session.execution in questions.items():
                row[ask, name] = session.ask("What is happening?").ttft_ms / 1e3
            # With a round behind it, the guidance prompts would no longer have the lengths above.
            session.context.history.clear()
        if number >= WARM:
            for place, seconds in row.items():
                times.setdefault(place, []).append(seconds)
    return times


if __name__ == "__main__":
    notes = {name: f"{ratio:.2f}" for name, ratio in RELEASE.items()}
    run(__doc__, "Streaming step against the plain decoder forward", measure, 30, notes)
