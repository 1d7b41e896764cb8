"""Time of a streaming step and of the first token, against the plain transformers decoder, in one run.

``python -m benchmarks.step`` builds a mid-size random model (12 layers, hidden 256, 4 query and 2 KV heads),
fills a memory of 1 000 video tokens, and times on one thread, interleaved round by round:

- *plain*: the decoder's forward of a 512-token chunk on a ``DynamicCache`` of the same length;
- *embedding*, *exact*: prefill of the same chunk and compression by ``hermes`` with either probe;
- *release*: the same by ``hermes_release``;
- *question*, *question_static*: the decoder's forward of a 20-token question, against ``session.ask`` up to
  its first token, through ``generate`` and in place.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import DynamicCache

from backbones.tiny import TinyLlavaOnevision
from hermes.backbone import Backbone, BackboneConfig, Chunk
from hermes.environment import environment
from hermes.generation import GenerationConfig
from hermes.parts import Blend, GuidedAttention
from hermes.provenance import Provenance
from hermes.session import StreamSession
from hermes.static import StaticDecoder
from hermes.tiers import TieredPolicy
from policies.hermes import Hermes
from policies.hermes_release import HermesRelease

BUDGET, PREFIX, CHUNK, PER_FRAME, QUESTION = 1000, 21, 512, 64, 20
# Tokens of the local, global and mixed guidance prompts.
PROMPTS = {"local": 30, "global": 31, "mixed": 63}
# The release on the same model, machine and prompts, as ratios to the same plain forward.
RELEASE = {"embedding": 1.25, "exact": 1.60, "question": 1.05, "question_static": 1.05}


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


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds per round of every contestant, interleaved."""
    generator = torch.Generator().manual_seed(0)
    backbone = FixedPrompts.load(BackboneConfig(family="mid", seed=0))
    hidden = backbone.text_config.hidden_size
    plain = Plain(backbone, generator)
    policies: dict[str, TieredPolicy] = {
        "embedding": embedding_probe(Hermes(budget=BUDGET)),
        "exact": Hermes(budget=BUDGET),
        "release": HermesRelease(budget=BUDGET),
    }
    generation = GenerationConfig(max_new_tokens=1)
    sessions = {
        name: StreamSession(backbone, policy, generation=generation) for name, policy in policies.items()
    }
    questions = {"question": None, "question_static": StaticDecoder(backbone)}
    names = ("plain", *sessions, "plain_question", *questions)
    times: dict[str, list[float]] = {name: [] for name in names}
    question = torch.randn(1, QUESTION, hidden, generator=generator)
    for number in range(rounds + 4):
        piece = chunk(number, generator, hidden)
        row: dict[str, float] = {"plain": plain(piece.embeds)}
        for name, session in sessions.items():
            with session:
                started = time.perf_counter()
                session.feed_chunk(piece)
                row[name] = time.perf_counter() - started
        row["plain_question"] = plain(question)
        with sessions["exact"] as session:
            for name, session.static in questions.items():
                row[name] = session.ask("What is happening?").ttft_ms / 1e3
            # With a round behind it, the guidance prompts would no longer have the lengths above.
            session.context.history.clear()
        # The first rounds fill the memories.
        if number >= 4:
            for name, seconds in row.items():
                times[name].append(seconds)
    return times


def rows(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One record per contestant: median and quartiles in ms, ratio to its plain forward."""
    out = []
    for name, seconds in times.items():
        base = times["plain_question" if "question" in name else "plain"]
        low, middle, high = statistics.quantiles(seconds, n=4)
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        record = {"operation": name, "median_ms": 1e3 * middle, "q1_ms": 1e3 * low, "q3_ms": 1e3 * high}
        out.append(
            {
                **record,
                "ratio_to_plain": ratio,
                "release_ratio": RELEASE.get(name, ""),
                "rounds": len(seconds),
            }
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = rows(measure(arguments.rounds))
    place = environment("cpu")
    versions = place["versions"]
    stack = f"torch {versions['torch']}, transformers {versions['transformers']}"
    machine = f"{place['device_name']}, 1 thread, {stack}"
    table = Table(title=f"Streaming step against the plain decoder forward ({machine})")
    for column in ("operation", "median ms", "quartiles ms", "ratio to plain", "release's ratio"):
        table.add_column(column, justify="left" if column == "operation" else "right")
    for record in records:
        quartiles = f"{record['q1_ms']:.1f} - {record['q3_ms']:.1f}"
        release = f"{record['release_ratio']:.2f}" if record["release_ratio"] else ""
        table.add_row(
            record["operation"],
            f"{record['median_ms']:.1f}",
            quartiles,
            f"{record['ratio_to_plain']:.3f}",
            release,
        )
    Console().print(table)
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [*records[0], "machine"])
            writer.writeheader()
            writer.writerows({**record, "machine": machine} for record in records)


if __name__ == "__main__":
    main()
