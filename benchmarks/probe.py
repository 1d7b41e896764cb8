"""Time of a question's forward with every layer probed, against the same forward without, in one run.

``python -m benchmarks.probe`` builds the mid-size random model of ``benchmarks.step`` (12 layers, hidden 256,
4 query and 2 KV heads), fills a memory of 1 000 video tokens, and times on one thread, interleaved round by
round, on a fork of the memory:

- *plain*: the decoder's forward of a text, unwatched;
- *mass*: with ``AttentionMass`` at every layer;
- *question*: with ``hermes.analysis.question.QuestionProbe``, and what it saw fetched as arrays.
"""

from __future__ import annotations

import time

import torch

from benchmarks.contest import Times, run
from benchmarks.step import BUDGET, CHUNK, MidLlavaOnevision, chunk
from hermes.analysis.question import QuestionProbe
from hermes.attention import AttentionMass, AttentionProbe, memory_attention_set, reading
from hermes.backbone import Backbone, BackboneConfig
from hermes.memory import KVMemory
from hermes.policies.fifo import Fifo
from hermes.session.session import StreamSession
from hermes.tokens import Chunk, Provenance

# Tokens of a short question, of a multiple-choice one, and of the mixed guidance prompt.
LENGTHS = (20, 63, 150)


@torch.no_grad()
def forward(backbone: Backbone, memory: KVMemory, text: Chunk, probe: AttentionProbe | None) -> None:
    """The whole decoder, as a question goes through it (a chunk's prefill leaves it in the last layer)."""
    positions = (memory.next_position + text.positions).to(text.embeds.device)
    with memory_attention_set(backbone.model), reading(memory, probe, text.tokens):
        backbone.decoder(
            inputs_embeds=text.embeds, position_ids=positions, past_key_values=memory, use_cache=True
        )


def measure(rounds: int) -> Times:
    """Seconds per round of every contestant by length of the text, interleaved."""
    generator = torch.Generator().manual_seed(0)
    backbone = MidLlavaOnevision.load(BackboneConfig(family="mid", seed=0))
    hidden = backbone.text_config.hidden_size
    times: dict[tuple[str, str], list[float]] = {}
    with StreamSession(backbone, Fifo(budget=BUDGET)) as session:
        for number in range(1 + BUDGET // CHUNK):
            session.feed_chunk(chunk(number, generator, hidden))
        texts = {length: torch.randn(1, length, hidden, generator=generator) for length in LENGTHS}
        for number in range(rounds + 3):
            for length, embeds in texts.items():
                positions = torch.arange(float(length))[None]
                text = Chunk(embeds, positions, length, Provenance.text(length), 0)
                probes: dict[str, AttentionProbe | None] = {
                    "plain": None,
                    "mass": AttentionMass(),
                    "question": QuestionProbe(),
                }
                # Each goes first as often as the others.
                names = list(probes)
                for name in names[number % 3 :] + names[: number % 3]:
                    probe, fork = probes[name], session.memory.fork()
                    started = time.perf_counter()
                    forward(backbone, fork, text, probe)
                    if probe is not None:
                        probe.result()
                    # The first rounds warm up.
                    if number >= 3:
                        seconds = time.perf_counter() - started
                        times.setdefault((f"{length} tokens", name), []).append(seconds)
    return times


if __name__ == "__main__":
    run(__doc__, f"A text over {BUDGET} video tokens, probed in all layers", measure, 40, None)
