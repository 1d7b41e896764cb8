"""Memory, step time and positions over 100 000 frames through the tiny model.

``python -m benchmarks.endless --csv docs/endless.csv --plot docs/endless.png`` feeds synthetic frames
straight to the decoder, so that vision does not hide the memory's cost, and writes a row every 100 chunks.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from hermes.backbone import BackboneConfig, Chunk
from hermes.loading import load_backbone
from hermes.provenance import Provenance
from hermes.resources import peak_memory_bytes
from hermes.session import StreamSession
from policies.hermes import Hermes

PER_FRAME, CHUNK_FRAMES, EVERY = 9, 16, 100


def chunk(number: int, hidden: int, generator: torch.Generator) -> Chunk:
    count = PER_FRAME * CHUNK_FRAMES
    place = torch.arange(count)
    tokens = Provenance.of(
        count,
        id=1_000 + number * count + place,
        frame=number * CHUNK_FRAMES + place // PER_FRAME,
        time_us=(number * CHUNK_FRAMES + place // PER_FRAME) * 1_000_000,
        row=place % PER_FRAME // 3,
        col=place % 3,
        kind=1,
    )
    embeds = torch.randn(1, count, hidden, generator=generator)
    return Chunk(embeds, torch.arange(float(count))[None], count, tokens, CHUNK_FRAMES)


def measure(frames: int, budget: int, to: Path) -> list[dict[str, Any]]:
    backbone = load_backbone(BackboneConfig(family="tiny_llava_onevision", device="cpu"))
    generator = torch.Generator().manual_seed(0)
    hidden = int(backbone.text_config.hidden_size)
    rows: list[dict[str, Any]] = []
    window: list[float] = []
    with (
        StreamSession(backbone, Hermes(budget=budget)) as session,
        to.open("w", newline="", encoding="utf-8") as out,
    ):
        writer: csv.DictWriter[str] | None = None
        for number in range(frames // CHUNK_FRAMES):
            piece = chunk(number, hidden, generator)
            started = time.perf_counter()
            session.feed_chunk(piece)
            window.append(time.perf_counter() - started)
            if len(window) < EVERY:
                continue
            row = {
                "frames": session.frames_seen,
                "step_ms": 1e3 * statistics.median(window),
                "step_p95_ms": 1e3 * statistics.quantiles(window, n=20)[-1],
                "memory_bytes": session.memory.memory_bytes,
                "peak_bytes": peak_memory_bytes(backbone.device),
                "largest_position": session.memory.largest_position(),
                "longest_layer": max(session.memory.lengths),
            }
            window.clear()
            if writer is None:
                writer = csv.DictWriter(out, list(row))
                writer.writeheader()
            writer.writerow(row)
            out.flush()
            rows.append(row)
    return rows


def plot(rows: list[dict[str, Any]], to: Path, limit: int) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    frames = [row["frames"] / 1e3 for row in rows]
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(7, 6), layout="constrained")
    axes[0].plot(frames, [row["memory_bytes"] / 2**20 for row in rows], label="keys, values, provenance")
    axes[0].set(ylabel="memory (MiB)", ylim=0)
    peak = axes[0].twinx()
    peak.plot(frames, [row["peak_bytes"] / 2**20 for row in rows], color="tab:orange")
    peak.set_ylabel("process peak (MiB)", color="tab:orange")
    peak.set_ylim(0)
    axes[1].plot(frames, [row["step_ms"] for row in rows], label="median of 100 chunks")
    axes[1].set(ylabel="step (ms)", ylim=0)
    axes[1].legend()
    axes[2].plot(frames, [row["largest_position"] for row in rows])
    axes[2].axhline(limit, linestyle="--", color="grey", label="the decoder's range")
    axes[2].set(ylabel="largest position", xlabel="thousand frames", ylim=0)
    axes[2].legend(loc="lower right")
    figure.savefig(to, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(arguments.frames, arguments.budget, arguments.csv)
    if arguments.plot:
        plot(rows, arguments.plot, 32768)


if __name__ == "__main__":
    main()
