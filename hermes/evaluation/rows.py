"""One line for every question asked, written as it is answered, and where they are kept."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hermes.answer import Answer
from hermes.data.annotations import Clip, TimedQuestion
from hermes.errors import InputError

__all__ = ["Journal", "Row", "gather", "read_run"]


@dataclass(frozen=True)
class Row:
    """A question of a benchmark, its answer, and what the memory held.

    Source: this project.

    Attributes:
        clip, number: which question: index of the video, and of the question in it.
        video: its path, or the name of a stream that has no file.
        task, kind, category: the benchmark's names, as far as it has them.
        expected: the right answer.
        chance: accuracy of a guess; None where the benchmark does not say and there are no choices.
        time_s: when it was asked, in seconds of the stream.
        age_s: how long before that the evidence was last on screen; None where it is everywhere or unknown.
        correct: None where the benchmark has no answer.
    """

    clip: int
    number: int
    video: str
    task: str
    kind: str
    category: str
    question: str
    choices: tuple[str, ...]
    expected: str
    chance: float | None
    time_s: float
    age_s: float | None
    answer: str
    choice: str | None
    probabilities: Mapping[str, float] | None
    correct: bool | None
    frames_seen: int
    tokens_per_layer: tuple[int, ...]
    memory_bytes: int
    ttft_ms: float
    archived_bytes: int = 0

    @classmethod
    def of(cls, place: tuple[int, int], clip: Clip, question: TimedQuestion, answer: Answer) -> Row:
        """The row of one answer; ``place`` is (clip, number)."""
        extra, choices = question.extra, question.choices
        chance = extra.get("chance", 1 / len(choices) if choices else None)
        return cls(
            *place,
            video=clip.id if not clip.video else clip.video,
            task=question.task,
            kind=str(extra.get("kind", question.task)),
            category=str(extra.get("category", "")),
            question=question.question,
            choices=choices,
            expected=question.answer,
            chance=chance,
            time_s=answer.time_s,
            age_s=_age(question, answer.time_s),
            answer=answer.answer,
            choice=answer.choice,
            probabilities=answer.probabilities,
            correct=answer.correct,
            frames_seen=answer.frames_seen,
            tokens_per_layer=tuple(answer.tokens_per_layer),
            memory_bytes=answer.memory_bytes,
            ttft_ms=answer.ttft_ms,
            archived_bytes=answer.archived_bytes,
        )


def _age(question: TimedQuestion, time: float) -> float | None:
    if question.evidence is None:
        return None
    start, end = question.evidence
    # Evidence from the first second to now is everywhere: it has no age.
    return None if start <= 0 and end >= time else max(time - end, 0.0)


class Journal:
    """The rows of a run in a folder; what a run that was killed has left is found again.

    Source: this project. The first process writes ``rows.jsonl``, process r ``rows.r.jsonl``, and each reads
    all of them. A last line that was cut short is dropped; every other line stays as it is.

    Args:
        folder: of the run.
        rank: number of this process.

    Raises:
        InputError: a file that holds something else.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.path = folder / ("rows.jsonl" if rank == 0 else f"rows.{rank}.jsonl")
        self.rows: dict[tuple[int, int], Row] = {}
        for path in _files(folder):
            for row in _read(path, mend=path == self.path):
                self.rows[row.clip, row.number] = row

    def add(self, row: Row) -> None:
        """Append a row; it is on disk when this returns."""
        self.rows[row.clip, row.number] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))


def gather(folder: Path) -> list[Row]:
    """The rows of all processes, in order, in the one file ``rows.jsonl`` (this project)."""
    rows = [row for _, row in sorted(Journal(folder).rows.items())]
    part = folder / "rows.jsonl.part"
    part.write_text("".join(map(_line, rows)), encoding="utf-8")
    part.replace(folder / "rows.jsonl")
    # Only now: what is read twice counts once, and nothing is ever in no file.
    for path in _files(folder):
        if path.name != "rows.jsonl":
            path.unlink()
    return rows


def read_run(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """The rows and the manifest of a run; nothing is changed, so that one still going on can be read.

    Source: this project.

    Raises:
        InputError: no such run, or a file of it that holds something else.
    """
    path, files = folder / "manifest.json", _files(folder)
    if not path.is_file() or not files:
        raise InputError(f"{folder}: not the folder of a run of 'hermes eval' (manifest.json, rows.jsonl)")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    rows = {(row.clip, row.number): row for file in files for row in _read(file, mend=False)}
    if not rows or not isinstance(manifest, dict):
        raise InputError(f"{folder}: a run without any answer yet, or without settings")
    return [row for _, row in sorted(rows.items())], manifest


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("rows*.jsonl"))


def _read(path: Path, *, mend: bool) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    # Other processes mend their own files.
    if mend and len(whole) < len(text):
        os.truncate(path, len(whole.encode()))
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            content = json.loads(line)
            yield Row(**{**content, **_tuples(content)})
        except (ValueError, TypeError, KeyError) as error:
            wanted = ", ".join(sorted(f.name for f in fields(Row)))
            raise InputError(f"{path}, line {number}: not a row of an evaluation ({wanted})") from error


def _line(row: Row) -> str:
    return json.dumps({key: _plain(value) for key, value in asdict(row).items()}, allow_nan=False) + "\n"


def _tuples(content: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(content[name]) for name in ("choices", "tokens_per_layer")}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
