"""Memory, step time and positions over 100 000 frames through the tiny model.

``python -m benchmarks.endless --csv docs/endless.csv --plot docs/endless.png`` feeds synthetic frames
straight to the decoder, so that vision does not hide the memory's cost, and writes a row every 100 chunks.
A young stream, begun anew with every row, takes the same chunks in turns: what both lose is the machine's.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from hermes.backbone import BackboneConfig, load_backbone
from hermes.machine.device import peak_memory_bytes
from hermes.pages.styles import BLUE, GREY, save_figure
from hermes.policies.hermes import Hermes
from hermes.policies.rekv import Rekv
from hermes.session.session import StreamSession
from hermes.tokens import Chunk, Provenance

PER_FRAME, CHUNK_FRAMES, EVERY = 9, 16, 100
POLICIES = {"hermes": Hermes, "rekv": Rekv}


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


def measure(frames: int, policy: str, budget: int, to: Path) -> list[dict[str, Any]]:
    backbone = load_backbone(BackboneConfig(family="tiny_llava_onevision", device="cpu"))
    generator = torch.Generator().manual_seed(0)
    hidden = int(backbone.text_config.hidden_size)
    rows: list[dict[str, Any]] = []
    window: list[float] = []
    fresh: list[float] = []
    with (
        StreamSession(backbone, POLICIES[policy](budget=budget)) as session,
        StreamSession(backbone, POLICIES[policy](budget=budget)) as young,
        to.open("w", newline="", encoding="utf-8") as out,
    ):
        writer: csv.DictWriter[str] | None = None
        for number in range(frames // CHUNK_FRAMES):
            piece = chunk(number, hidden, generator)
            window.append(_seconds(session, piece))
            fresh.append(_seconds(young, piece))
            if len(window) < EVERY:
                continue
            row = {
                "frames": session.frames_seen,
                "step_ms": 1e3 * statistics.median(window),
                "step_p95_ms": 1e3 * statistics.quantiles(window, n=20)[-1],
                # Its memory is full from the third chunk on.
                "young_step_ms": 1e3 * statistics.median(fresh[5:]),
                "memory_bytes": session.memory.memory_bytes,
                "archived_bytes": session.policy.archived_bytes + session.policy.resident_bytes,
                "peak_bytes": peak_memory_bytes(backbone.device),
                "largest_position": session.memory.largest_position(),
                "longest_layer": max(session.memory.lengths),
            }
            window.clear()
            fresh.clear()
            young.reset()
            if writer is None:
                writer = csv.DictWriter(out, list(row))
                writer.writeheader()
            writer.writerow(row)
            out.flush()
            rows.append(row)
    return rows


def _seconds(session: StreamSession, piece: Chunk) -> float:
    started = time.perf_counter()
    session.feed_chunk(piece)
    return time.perf_counter() - started


def plot(rows: list[dict[str, Any]], to: Path, limit: int) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    frames = [row["frames"] / 1e3 for row in rows]
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(7, 6), layout="constrained")
    for panel, column, label, colour, style in (
        (axes[0], "memory_bytes", "memory (MiB)", BLUE, "-"),
        (axes[0].twinx(), "peak_bytes", "process peak (MiB)", GREY, "--"),
    ):
        values = [row[column] / 2**20 for row in rows]
        panel.plot(frames, values, style, color=colour)
        panel.set_ylabel(label, color=colour)
        panel.set_ylim(0, 1.5 * max(values) if column == "memory_bytes" else 1.2 * max(values))
    axes[1].plot(frames, [row["step_ms"] for row in rows], color=BLUE, label="this stream")
    axes[1].plot(
        frames, [row["young_step_ms"] for row in rows], "--", color=GREY, label="a young stream, in turns"
    )
    axes[1].set(ylabel="step, median of 100 (ms)", ylim=0)
    axes[1].legend(loc="lower right")
    axes[2].plot(frames, [row["largest_position"] for row in rows], color=BLUE)
    axes[2].axhline(limit, linestyle="--", color=GREY, label="the decoder's range")
    axes[2].set(ylabel="largest position", xlabel="thousand frames", ylim=(0, 1.3 * limit))
    axes[2].legend(loc="upper right")
    save_figure(figure, to)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--policy", choices=POLICIES, default="hermes")
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(arguments.frames, arguments.policy, arguments.budget, arguments.csv)
    if arguments.plot:
        plot(rows, arguments.plot, 32768)


if __name__ == "__main__":
    main()
