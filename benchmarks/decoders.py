"""Time per token and to the first token by each decoder, interleaved: ``python -m benchmarks.decoders``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.step import BUDGET, FixedPrompts, chunk
from hermes.backbone import BackboneConfig
from hermes.bench import Recorder, write_records
from hermes.decoding.execution import Execution
from hermes.decoding.generation import GenerationConfig
from hermes.policies.fifo import Fifo
from hermes.session.session import StreamSession

TOKENS = 32


def measure(rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds to the first token and per token after it, on the mid-size model at its budget."""
    backbone: Any = FixedPrompts.load(BackboneConfig(family="mid", seed=0))
    backbone.model.generation_config.eos_token_id = None
    generator = torch.Generator().manual_seed(0)
    session = StreamSession(backbone, Fifo(budget=BUDGET), generation=GenerationConfig(max_new_tokens=TOKENS))
    for number in range(3):
        session.feed_chunk(chunk(number, generator, backbone.text_config.hidden_size))
    decoders = {
        "eager": Execution(backbone),
        "static": Execution(backbone, "static"),
        "compile": Execution(backbone, "compile"),
    }
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in decoders}
    with session:
        for number in range(rounds + 1):
            for name, session.execution in decoders.items():
                answer = session.ask("What is happening?")
                # The first round compiles.
                if number:
                    times[name][0].append(answer.ttft_ms)
                    times[name][1].append(answer.tpot_ms or 0.0)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recorder, records = Recorder("cpu"), []
    table = Table("decoder", "ttft ms", "tpot ms")
    for name, (first, rest) in measure(arguments.rounds).items():
        shape = f"budget {BUDGET}, {TOKENS} tokens"
        both = [
            recorder.record(operation, name, shape, "float32", values, unit="ms")
            for operation, values in (("ttft", first), ("tpot", rest))
        ]
        records += both
        table.add_row(name, *(f"{record.median:.2f}" for record in both))
    Console().print(table)
    if arguments.csv:
        write_records(arguments.csv, records)


if __name__ == "__main__":
    main()
