"""Throughput of streams in lockstep against single runs, interleaved: ``python -m benchmarks.lockstep``."""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import endless
from benchmarks.step import embedding_probe
from hermes.backbone import Backbone, BackboneConfig
from hermes.backbones.tiny import TinyLlavaOnevision
from hermes.bench import Record, Recorder, write_records
from hermes.policies.fifo import Fifo
from hermes.policies.hermes import Hermes
from hermes.policy import MemoryPolicy
from hermes.session.lockstep import BatchedSession
from hermes.session.session import StreamSession
from hermes.tokens import Chunk

STREAMS, WARM = 4, 20


def piece(number: int, frames: int, generator: torch.Generator) -> Chunk:
    """A chunk of ``frames`` frames, at most 16."""
    count = frames * endless.PER_FRAME
    whole = endless.chunk(number, 64, generator).select(torch.arange(count))
    return Chunk(whole.embeds, whole.positions, count, whole.tokens, frames)


def measure(backbone: Backbone, policy: MemoryPolicy, frames: int, rounds: int) -> dict[str, list[float]]:
    """Frames a second of all streams together, by both ways."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(STREAMS)]
    rates: dict[str, list[float]] = {"single": [], "lockstep": []}
    together = BatchedSession(backbone, policy, STREAMS)
    alone = [StreamSession(backbone, copy.deepcopy(policy)) for _ in range(STREAMS)]
    with together:
        for number in range(rounds + WARM):
            pieces = [piece(number, frames, generator) for generator in generators]
            started = time.perf_counter()
            together.feed_chunk(pieces)
            middle = time.perf_counter()
            for session, chunk in zip(alone, pieces, strict=True):
                session.feed_chunk(chunk)
            ended = time.perf_counter()
            if number >= WARM:
                rates["lockstep"].append(STREAMS * frames / (middle - started))
                rates["single"].append(STREAMS * frames / (ended - middle))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    backbone: Any = TinyLlavaOnevision.load(BackboneConfig(family="tiny_llava_onevision", device="cpu"))
    recorder, records = Recorder("cpu"), list[Record]()
    table = Table(
        "policy", "chunk, frames", "budget", "4 single, frames/s", "4 in lockstep, frames/s", "ratio"
    )
    policies = {
        "fifo": lambda budget: Fifo(budget=budget),
        "hermes, embedding": lambda budget: embedding_probe(Hermes(budget=budget)),
        "hermes, exact": lambda budget: Hermes(budget=budget),
    }
    for (policy, make), (frames, budget) in itertools.product(
        policies.items(), ((1, 64), (4, 64), (4, 300), (16, 300))
    ):
        rates = measure(backbone, make(budget), frames, arguments.rounds)
        both = [
            recorder.record(
                "stream",
                name,
                f"{policy}, {frames} frames, budget {budget}",
                "float32",
                values,
                unit="frames/s",
            )
            for name, values in rates.items()
        ]
        records += both
        single, lockstep = (record.median for record in both)
        table.add_row(
            policy, str(frames), str(budget), f"{single:.0f}", f"{lockstep:.0f}", f"{lockstep / single:.2f}"
        )
    Console().print(table)
    if arguments.csv:
        write_records(arguments.csv, records)


if __name__ == "__main__":
    main()
