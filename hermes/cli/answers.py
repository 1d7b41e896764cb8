"""Answers as JSON lines for programs, and as text and tables for people."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from hermes.attention import NAME
from hermes.cli.output import out
from hermes.cli.questions import Question
from hermes.config import available, config_hash, to_dict
from hermes.dialogue.choices import lettered
from hermes.files import json_line
from hermes.machine.environment import environment
from hermes.pages.text import clean
from hermes.registry import registry
from hermes.session.answer import Answer
from hermes.session.config import RunConfig
from hermes.session.session import StreamSession


def run_record(session: StreamSession, config: RunConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """What every answer of a run has in common: settings, and the environment it ran in."""
    # A configuration is called by its own name, `hermes_embedding` and not `hermes`.
    chosen = [text.removeprefix("policy=") for text in overrides if text.startswith("policy=")]
    named = [name for name in chosen[-1:] if name in available("policy")]
    prompts = session.policy.prompts_used()
    about = environment(NAME, session.backbone.device)
    return {
        "policy": named[0] if named else registry("policy").name_of(type(session.policy)),
        "backbone": to_dict(config.backbone.checkpoint or config.backbone.family),
        "budget": session.policy.budget,
        "seed": config.seed,
        "config_hash": config_hash(config),
        "prompts": None if prompts is None else prompts.hashes(),
        "device": about["device"],
        "attention": about["attention"],
        "versions": about["versions"],
    }


class Writer:
    """Where answers go; every method does nothing by default. `streams`: wants them piece by piece."""

    streams = False

    def __init__(self) -> None:
        self.console = out()

    def asking(self, question: Question, time_s: float) -> None: ...
    def text(self, piece: str) -> None: ...
    def answered(self, question: Question, answer: Answer, run: Mapping[str, Any]) -> None: ...
    def finished(self, session: StreamSession, run: Mapping[str, Any]) -> None: ...
    def saved(self, what: str) -> None: ...


class Lines(Writer):
    """One JSON object a line; a value that JSON does not have (NaN, infinity) becomes null."""

    def answered(self, question: Question, answer: Answer, run: Mapping[str, Any]) -> None:
        own = {f.name: getattr(answer, f.name) for f in dataclasses.fields(answer) if f.name != "ids"}
        self.console.file.write(json_line({**own, **run}))
        self.console.file.flush()


class Page(Writer):
    """Answers as they are generated, then tables of what they took."""

    streams = True

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[Answer] = []

    def asking(self, question: Question, time_s: float) -> None:
        self.console.print(Text.assemble((f"{time_s:g} s  ", "cyan"), (question.question, "bold")))
        for letter, choice in lettered(question.choices).items():
            self.console.print(Text(f"     ({letter}) {choice}"))

    def text(self, piece: str) -> None:
        self.console.file.write(clean(piece))
        self.console.file.flush()

    def answered(self, question: Question, answer: Answer, run: Mapping[str, Any]) -> None:
        self.answers.append(answer)
        self.text("\n")
        if answer.choice is not None and answer.probabilities is not None:
            chosen = lettered(question.choices)[answer.choice]
            odds = "  ".join(f"{letter} {share:.0%}" for letter, share in answer.probabilities.items())
            parts = (("choice  ", "dim"), f"({answer.choice}) {chosen}", (f"   {odds}", "dim"))
            self.console.print(Text.assemble(*parts))
        if answer.correct:
            self.console.print(Text("right", "green"))
        elif answer.correct is not None:
            self.console.print(Text.assemble(("wrong", "red"), f"; the answer is: {question.answer}"))
        self.console.print()

    def finished(self, session: StreamSession, run: Mapping[str, Any]) -> None:
        last = self.answers[-1]
        for table in (_answers(self.answers), _memory(session, run), _costs(session, last, run)):
            self.console.print(table)
            self.console.print()
        judged = [answer.correct for answer in self.answers if answer.correct is not None]
        if judged:
            self.console.print(f"{sum(judged)} of {len(judged)} right")

    def saved(self, what: str) -> None:
        self.console.print(Text(what), soft_wrap=True)


def _table(title: str, header: bool = True) -> Table:
    table = Table(title=title, box=None, show_header=header, pad_edge=False, padding=(0, 3, 0, 0))
    table.title_justify, table.title_style, table.header_style = "left", "bold", "dim"
    return table


def _answers(answers: list[Answer]) -> Table:
    table = _table("answers")
    for name in ("at", "frames seen", "TTFT", "TPOT", "tokens a layer", "memory"):
        table.add_column(name, justify="right")
    for answer in answers:
        least, most = min(answer.tokens_per_layer), max(answer.tokens_per_layer)
        table.add_row(
            f"{answer.time_s:g} s",
            str(answer.frames_seen),
            f"{answer.ttft_ms:.0f} ms",
            "-" if answer.tpot_ms is None else f"{answer.tpot_ms:.1f} ms",
            str(most) if most == least else f"{least} to {most}",
            _bytes(answer.memory_bytes),
        )
    return table


def _memory(session: StreamSession, run: Mapping[str, Any]) -> Table:
    policy, memory = session.policy, session.memory
    table = _table(f"memory: {run['policy']} ({policy.bound}), budget {policy.budget}")
    boundaries = getattr(policy, "boundaries", None)
    count = len(memory.managed)
    tiers: Mapping[str, range] = boundaries(count) if boundaries else {"all": range(count)}
    for name in ("tier", "managed layers" if memory.states else "layers", "tokens a layer"):
        table.add_column(name)
    for name, layers in tiers.items():
        for length, group in itertools.groupby(layers, key=lambda layer: memory.lengths[layer]):
            held = list(group)
            span = str(held[0]) if len(held) == 1 else f"{held[0]}-{held[-1]}"
            table.add_row(name, span, f"{length} = {memory.prefix} prefix + {length - memory.prefix} video")
    return table


def _costs(session: StreamSession, last: Answer, run: Mapping[str, Any]) -> Table:
    stats, policy = session.stats(), session.policy
    table = _table("cost", header=False)
    whole = (
        f"{_time(stats.encode_ms)} for {stats.frames} frames, {stats.chunks} chunk{'s' * (stats.chunks != 1)}"
    )
    table.add_row("encoding", f"{whole}, {stats.encode_ms / max(stats.frames, 1):.1f} ms a frame")
    each = stats.compress_ms / max(stats.chunks, 1)
    table.add_row("compression", f"{_time(stats.compress_ms)}, {each:.1f} ms a chunk")
    beside = ", and what the policy holds beside them" if policy.resident_bytes else ""
    table.add_row("memory", f"{_bytes(last.memory_bytes)}: keys, values, positions, provenance{beside}")
    if len(last.bytes_by_kind) > 1:
        parts = (f"{kind} layers {_bytes(size)}" for kind, size in last.bytes_by_kind.items())
        table.add_row("", f"of which {', '.join(parts)}; a policy evicts from the managed ones")
    if last.archived_bytes:
        growing = ", growing with the stream" if policy.bound == "growing" else ""
        table.add_row("archive", f"{_bytes(last.archived_bytes)} outside the memory{growing}")
    whose = "process" if run["device"] == "cpu" else "device"
    table.add_row("peak", f"{_bytes(last.peak_memory_bytes)} of the {whose}")
    table.add_row("device", f"{run['device']}; {run['attention']}")
    return table


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
