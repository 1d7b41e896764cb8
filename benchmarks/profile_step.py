"""Where a streaming step spends its time: CPU time of operators by group, and how many are called.

``python -m benchmarks.profile_step`` profiles six steps of ``hermes`` with either probe, on one thread, with
the model and memory of ``benchmarks.step``.
"""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.step import BUDGET, CHUNK, FixedPrompts, chunk, embedding_probe
from hermes.backbone import BackboneConfig
from hermes.policies.hermes import Hermes
from hermes.session.session import StreamSession

STEPS = 6
GROUPS = {
    "attention of chunk and prompts": ("flash_attention", "efficient_attention"),
    "matrix products: projections, feed-forward, attention mass": ("addmm", "aten::mm", "bmm", "softmax"),
    "concatenation": ("aten::cat",),
    "gathering": ("gather", "index"),
    "copies": ("copy_",),
}
REST = "everything else"


def shares(policy: Hermes) -> tuple[dict[str, float], float]:
    """Share of operator time by group, and operators a step."""
    generator = torch.Generator().manual_seed(0)
    backbone = FixedPrompts.load(BackboneConfig(family="mid", seed=0))
    hidden = backbone.text_config.hidden_size
    with StreamSession(backbone, policy) as session:
        for number in range(4):
            session.feed_chunk(chunk(number, generator, hidden))
        with profile(activities=[ProfilerActivity.CPU]) as record:
            for number in range(4, 4 + STEPS):
                session.feed_chunk(chunk(number, generator, hidden))
    taken, calls = dict.fromkeys((*GROUPS, REST), 0.0), 0
    for event in record.key_averages():
        if event.key.startswith("aten::"):
            calls += event.count
            group = next(
                (name for name, keys in GROUPS.items() if any(key in event.key for key in keys)), REST
            )
            taken[group] += event.self_cpu_time_total
    whole = sum(taken.values())
    return {name: time / whole for name, time in taken.items()}, calls / STEPS


def main() -> None:
    """Profile both probes, and print."""
    torch.set_num_threads(1)
    found = {
        "embedding": shares(embedding_probe(Hermes(budget=BUDGET))),
        "exact": shares(Hermes(budget=BUDGET)),
    }
    table = Table("group", *found, title=f"A step of {CHUNK} tokens over {BUDGET}, per cent of operator time")
    for name in (*GROUPS, REST):
        table.add_row(name, *(f"{100 * share[name]:.1f}" for share, _ in found.values()))
    table.add_row("operators a step", *(f"{calls:.0f}" for _, calls in found.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
