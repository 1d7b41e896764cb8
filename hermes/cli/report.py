"""Answers as JSON lines for programs, and as text and tables for people."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hermes.cli.questions import Question
from hermes.config import config_hash
from hermes.environment import environment
from hermes.prompts import letters
from hermes.registry import registry
from hermes.session import Answer, StreamSession
from hermes.settings import RunConfig


def run_record(session: StreamSession, config: RunConfig) -> dict[str, Any]:
    """What every answer of a run has in common: its settings, and the environment it ran in."""
    prompts = session.policy.prompts_used()
    about = environment(session.backbone.device)
    return {
        "policy": registry("policy").name_of(type(session.policy)),
        "backbone": config.backbone.checkpoint or config.backbone.family,
        "budget": session.policy.budget,
        "seed": config.seed,
        "config_hash": config_hash(config),
        "prompts": prompts.hashes() if prompts is not None else None,
        "device": about["device"],
        "attention": about["attention"],
        "versions": about["versions"],
    }


def write_line(stream: TextIO, answer: Answer, run: Mapping[str, Any], warnings: Sequence[str]) -> None:
    """One answer as one line of JSON; a value that JSON does not have (NaN, infinity) becomes null."""
    own = {f.name: getattr(answer, f.name) for f in dataclasses.fields(answer) if f.name != "ids"}
    record = _plain({**own, **run, "warnings": list(warnings)})
    stream.write(json.dumps(record, allow_nan=False) + "\n")
    stream.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show_question(console: Console, question: Question, time_s: float) -> None:
    console.print(Text.assemble((f"{time_s:g} s  ", "cyan"), (question.question, "bold")))
    for letter, choice in zip(letters(len(question.choices)), question.choices, strict=True):
        console.print(Text(f"     ({letter}) {choice}"))


def show_choice(console: Console, question: Question, answer: Answer) -> None:
    """The chosen option and its probability, and whether the answer is right where that is known."""
    if answer.choice is not None and answer.probabilities is not None:
        text = question.choices[ord(answer.choice) - ord("A")]
        odds = "  ".join(f"{letter} {share:.0%}" for letter, share in answer.probabilities.items())
        console.print(Text.assemble(("choice  ", "dim"), f"({answer.choice}) {text}", (f"   {odds}", "dim")))
    if answer.correct is not None:
        verdict = ("right", "green") if answer.correct else ("wrong", "red")
        console.print(Text.assemble(verdict, "" if answer.correct else f"; the answer is: {question.answer}"))
    console.print()


def show_tables(console: Console, session: StreamSession, answers: Sequence[Answer], run: Mapping[str, Any]) -> None:
    """What the answers took, what each layer holds, and what the stream cost."""
    console.print(_answers_table(answers), "")
    console.print(_memory_table(session, run), "")
    stats, last = session.stats(), answers[-1]
    costs = _table("cost")
    costs.show_header = False
    frames = f"{stats.frames} frames in {stats.chunks} chunks"
    each = f"{stats.encode_ms / max(stats.frames, 1):.1f} ms a frame"
    costs.add_row("encoding", f"{_time(stats.encode_ms)} for {frames}, {each}")
    costs.add_row("compression", f"{_time(stats.compress_ms)}, {stats.compress_ms / max(stats.chunks, 1):.1f} ms a chunk")
    costs.add_row("memory", f"{_bytes(last.memory_bytes)} of keys, values, positions and provenance")
    costs.add_row("peak", f"{_bytes(last.peak_memory_bytes)} of {'the device' if run['device'] != 'cpu' else 'the process'}")
    costs.add_row("device", f"{run['device']}; {run['attention']}")
    console.print(costs)
    judged = [answer.correct for answer in answers if answer.correct is not None]
    if judged:
        console.print(f"\n{sum(judged)} of {len(judged)} right")


def _answers_table(answers: Sequence[Answer]) -> Table:
    table = _table("answers")
    for name in ("at", "frames seen", "TTFT", "TPOT", "tokens a layer", "memory"):
        table.add_column(name, justify="right")
    for answer in answers:
        most, least = max(answer.tokens_per_layer), min(answer.tokens_per_layer)
        table.add_row(
            f"{answer.time_s:g} s",
            str(answer.frames_seen),
            f"{answer.ttft_ms:.0f} ms",
            "-" if answer.tpot_ms is None else f"{answer.tpot_ms:.1f} ms",
            str(most) if most == least else f"{least} to {most}",
            _bytes(answer.memory_bytes),
        )
    return table


def _memory_table(session: StreamSession, run: Mapping[str, Any]) -> Table:
    policy, memory = session.policy, session.memory
    table = _table(f"memory: {run['policy']} ({policy.bound}), budget {policy.budget}")
    boundaries = getattr(policy, "boundaries", None)
    tiers: Mapping[str, range] = boundaries(len(memory.layers)) if boundaries else {}
    if tiers:
        table.add_column("tier")
    table.add_column("layers")
    table.add_column("tokens a layer")
    for name, layers in (tiers or {"": range(len(memory.layers))}).items():
        for count, group in itertools.groupby(layers, key=lambda layer: memory.lengths[layer]):
            held = list(group)
            span = str(held[0]) if len(held) == 1 else f"{held[0]}-{held[-1]}"
            tokens = f"{count} = {memory.prefix} prefix + {count - memory.prefix} video"
            table.add_row(*([name] if tiers else []), span, tokens)
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0)
    )


def _time(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1e4 else f"{milliseconds / 1e3:.1f} s"


def _bytes(count: int) -> str:
    """Bytes in powers of 1024.

    >>> _bytes(3 * 2**20)
    '3.0 MiB'
    """
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} B"
