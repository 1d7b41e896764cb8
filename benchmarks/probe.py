"""Time of a question's forward with every layer probed, against the same forward without, in one run.

``python -m benchmarks.probe`` builds the mid-size random model of ``benchmarks.step`` (12 layers, hidden 256,
4 query and 2 KV heads), fills a memory of 1 000 video tokens, and times on one thread, interleaved round by
round, on a fork of the memory:

- *plain*: the decoder's forward of a text, unwatched;
- *mass*: with ``AttentionMass`` at every layer;
- *question*: with ``analysis.question.QuestionProbe``, and what it saw fetched as arrays.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from analysis.question import QuestionProbe
from benchmarks.step import BUDGET, CHUNK, MidLlavaOnevision, chunk
from hermes.backbone import BackboneConfig, Chunk
from hermes.environment import environment
from hermes.prefill import prefill
from hermes.probe import AttentionMass, AttentionProbe
from hermes.provenance import Provenance
from hermes.session import StreamSession
from policies.fifo import Fifo

# Tokens of a short question, of a multiple-choice one, and of the mixed guidance prompt.
LENGTHS = (20, 63, 150)


def measure(rounds: int) -> dict[tuple[int, str], list[float]]:
    """Seconds per round of every contestant by length of the text, interleaved."""
    generator = torch.Generator().manual_seed(0)
    backbone = MidLlavaOnevision.load(BackboneConfig(family="mid", seed=0))
    hidden = backbone.text_config.hidden_size
    times: dict[tuple[int, str], list[float]] = {}
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
                    prefill(backbone, fork, text, probe=probe)
                    if probe is not None:
                        probe.result()
                    # The first rounds warm up.
                    if number >= 3:
                        times.setdefault((length, name), []).append(time.perf_counter() - started)
    return times


def rows(times: dict[tuple[int, str], list[float]]) -> list[dict[str, object]]:
    """One record per contestant: median and quartiles in ms, and what it adds to the plain forward."""
    out: list[dict[str, object]] = []
    for (length, name), seconds in sorted(times.items()):
        low, middle, high = statistics.quantiles(seconds, n=4)
        plain = times[length, "plain"]
        added = statistics.median(a / b - 1 for a, b in zip(seconds, plain, strict=True))
        record: dict[str, object] = {"tokens": length, "probe": name, "median_ms": 1e3 * middle}
        out.append(
            {**record, "q1_ms": 1e3 * low, "q3_ms": 1e3 * high, "added": added, "rounds": len(seconds)}
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--csv", type=Path, help="write the table here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = rows(measure(arguments.rounds))
    place = environment("cpu")
    versions = place["versions"]
    stack = f"torch {versions['torch']}, transformers {versions['transformers']}"
    machine = f"{place['device_name']}, 1 thread, {stack}"
    table = Table(title=f"A text over {BUDGET} video tokens, probed in all layers ({machine})")
    for column in ("text tokens", "probe", "median ms", "quartiles ms", "added %"):
        table.add_column(column, justify="left" if column == "probe" else "right")
    for record in records:
        numbers = [f"{record[key]:.1f}" for key in ("median_ms", "q1_ms", "q3_ms")]
        added = f"{100 * float(str(record['added'])):.0f}"
        quartiles = f"{numbers[1]} - {numbers[2]}"
        table.add_row(str(record["tokens"]), str(record["probe"]), numbers[0], quartiles, added)
    Console().print(table)
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [*records[0], "machine"])
            writer.writeheader()
            writer.writerows({**record, "machine": machine} for record in records)


if __name__ == "__main__":
    main()
