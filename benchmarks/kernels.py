"""Each kernel against torch eager, ``torch.compile`` and its roofline: ``python -m benchmarks.kernels``.

Sizes are those of one layer of LLaVA-OneVision-7B at budget 4 000 and 16 frames a chunk (28 query and 4 KV
heads of 128 channels, 21 + 4 000 + 3 136 tokens), and fractions of it. The roofline is the time in which the
measured copy bandwidth moves the bytes that must move. Needs a CUDA device.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hermes.bench import Record, Recorder, write_records
from hermes.kernels import MixPlan, Rotation
from hermes.pages.styles import save_figure

HEADS, KV_HEADS, WIDTH, PREFIX, BUDGET, CHUNK, LAYERS = 28, 4, 128, 21, 4000, 3136, 28


@dataclass(frozen=True)
class Case:
    """One operation on one size: its arguments, and the bytes that must be read and written."""

    operation: str
    shape: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    nbytes: int


def cases(scale: float, dtype: torch.dtype, device: str) -> list[Case]:
    budget, chunk = int(BUDGET * scale), int(CHUNK * scale)
    held = PREFIX + budget + chunk
    generator = torch.Generator(device).manual_seed(0)

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator, device=device, dtype=dtype)

    keys, values = random(1, KV_HEADS, held, WIDTH), random(1, KV_HEADS, held, WIDTH)
    order = torch.rand(1, 1, held, generator=generator, device=device).argsort(-1)
    keep = order[..., : PREFIX + budget].sort(-1).values.contiguous()
    evicted = order[..., PREFIX + budget :].sort(-1).values.contiguous()
    half = WIDTH // 2
    frequencies = 1e6 ** (-torch.arange(half, device=device).float() / half)
    axis = torch.zeros(half, dtype=torch.int64, device=device)

    def turn(count: int) -> Rotation:
        shift = torch.randint(-9000, 0, (1, 1, 1, count), generator=generator, device=device)
        return Rotation(shift.float(), frequencies, axis)

    weights = torch.full(evicted.shape, 1 / chunk, device=device)
    mix = MixPlan(evicted, weights, None, 1, turn(chunk))
    token = KV_HEADS * WIDTH * keys.element_size()
    shape = f"T {held}, kept {keep.shape[-1]}, heads {HEADS}/{KV_HEADS}, width {WIDTH}"
    found = [
        Case("compact", shape, (keys, values, keep, None, None), {}, 4 * keep.shape[-1] * token),
        Case(
            "compact+turn+mix",
            shape,
            (keys, values, keep, turn(keep.shape[-1]), mix),
            {},
            (4 * keep.shape[-1] + 2 * chunk) * token,
        ),
    ]
    for queries in (31, 63):
        query, own = random(1, HEADS, queries, WIDTH), random(1, KV_HEADS, queries, WIDTH)
        arguments = (query, keys, own)
        size = f"{shape}, queries {queries}"
        # The keys are read twice: log-sum-exp, then column sums.
        found.append(Case("mass", size, arguments, {"scaling": WIDTH**-0.5}, 2 * held * token))
    cos, sin = turn(held).angles()
    found.append(
        Case("rotate", shape, (keys, cos, sin), {}, 2 * held * token + 2 * cos.numel() * cos.element_size())
    )
    attention = torch.rand(LAYERS, 1, 1, budget + chunk, generator=generator, device=device)
    numbers = tuple(torch.rand(LAYERS, device=device) for _ in range(3))
    size = f"{LAYERS} layers, V {budget + chunk}"
    found.append(Case("score", size, (attention, *numbers), {}, 3 * attention.numel() * 4))
    return found


_FUNCTIONS = {
    "compact": ("compact", "compact_layer"),
    "mass": ("mass", "attention_mass"),
    "rotate": ("rotate", "rotate"),
    "score": ("score", "blended_scores"),
}


def providers(operation: str) -> dict[str, Callable[..., Any]]:
    module, name = _FUNCTIONS[operation.split("+")[0]]
    eager = getattr(importlib.import_module(f"hermes.kernels.{module}"), name)
    triton = getattr(importlib.import_module(f"hermes.kernels.{module}_triton"), name)
    return {"torch": eager, "compile": torch.compile(eager, dynamic=False), "triton": triton}


def bandwidth(device: str) -> float:
    """Bytes a second of a large copy, read and written."""
    from triton.testing import do_bench

    source = torch.empty(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    milliseconds = do_bench(lambda: target.copy_(source), return_mode="median")
    return float(2 * source.numel() / (milliseconds / 1e3))


def measure(dtype: torch.dtype, device: str, scales: tuple[float, ...]) -> list[Record]:
    from triton.testing import do_bench

    recorder, speed = Recorder(device), bandwidth(device)
    found = [recorder.record("copy", "torch", "1 GiB", "uint8", [speed / 1e9], unit="GB/s")]
    for scale in scales:
        for case in cases(scale, dtype, device):
            for provider, run in providers(case.operation).items():
                times = do_bench(lambda: run(*case.arguments, **case.options), return_mode="all")  # noqa: B023
                found.append(
                    recorder.record(case.operation, provider, case.shape, str(dtype), times, unit="ms")
                )
            best = 1e3 * case.nbytes / speed
            found.append(
                recorder.record(case.operation, "roofline", case.shape, str(dtype), [best], unit="ms")
            )
    return found


def show(records: list[Record]) -> None:
    best = {(r.operation, r.shape): r.median for r in records if r.provider == "roofline"}
    table = Table(title=f"{records[0].machine}, copy {records[0].median:.0f} GB/s")
    for column in ("operation", "provider", "shape", "median ms", "of the roofline"):
        table.add_column(column)
    for record in records[1:]:
        share = best[record.operation, record.shape] / record.median
        table.add_row(record.operation, record.provider, record.shape, f"{record.median:.4f}", f"{share:.0%}")
    Console().print(table)


def plot(records: list[Record], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    names = [f"{r.operation}\n{r.shape}" for r in records if r.provider == "roofline"]
    figure, axes = plt.subplots(figsize=(8, 0.8 * len(names) + 1), layout="constrained")
    kinds = ("torch", "compile", "triton", "roofline")
    for i, provider in enumerate(kinds):
        values = [r.median for r in records if r.provider == provider and r.operation != "copy"]
        axes.barh([j + 0.2 * i for j in range(len(names))], values, height=0.2, label=provider)
    axes.set(xscale="log", xlabel="ms", title=records[0].machine)
    axes.set_yticks([j + 0.3 for j in range(len(names))], names, fontsize=6)
    axes.legend()
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/kernels.csv"))
    parser.add_argument("--plot", type=Path, default=Path("benchmarks/results/kernels.png"))
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: kernels are timed on a GPU only")
    records = measure(getattr(torch, arguments.dtype), "cuda", (1.0, 0.25))
    write_records(arguments.csv, records)
    plot(records, arguments.plot)
    show(records)


if __name__ == "__main__":
    main()
