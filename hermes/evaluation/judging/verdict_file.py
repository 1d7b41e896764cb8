"""The file that verdicts are kept in."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hermes.errors import InputError
from hermes.evaluation.judging.judge import Verdict
from hermes.evaluation.results.rows import AnswerRow
from hermes.files import append_text, json_line, make_folder
from hermes.reading import Number, parse_json, read_lines, typed

__all__ = ["VerdictFile"]

_logger = logging.getLogger("hermes.evaluation")


@dataclass(frozen=True)
class _Line:
    """A line of the file; the texts are for readers."""

    key: str
    correct: bool | None
    score: Number | None
    messages: tuple[dict[str, str], ...]
    replies: tuple[str, ...]
    judge: Any = None
    question: Any = None
    expected: Any = None
    answer: Any = None


class VerdictFile:
    """Verdicts in a file of JSON lines, by a hash of the judge, the question and both answers.

    Each line has the judge, the words it was given, the messages, the raw replies and the verdict. Lines that
    are no verdicts, as one that was cut short, are passed over with a warning, and asked for again; of two
    with the same key the later one counts.

    Args:
        path: of the file; it need not be there.

    Raises:
        InputError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.verdicts: dict[str, Verdict] = {}
        broken: list[str] = []
        for number, text in read_lines(path) if path.exists() else ():
            where = f"{path}, line {number}"
            try:
                line = typed(_Line, parse_json(text, where), where)
            except InputError as error:
                broken.append(str(error))
            else:
                self.verdicts[line.key] = Verdict(line.correct, line.score, line.messages, line.replies)
        if broken:
            _logger.warning(
                "%s: %d lines are no verdicts and are passed over: %s", path, len(broken), broken[0]
            )

    def add(self, key: str, identity: str, row: AnswerRow, verdict: Verdict) -> None:
        """Append a verdict; it is on disk when this returns.

        Raises:
            InputError: the file cannot be written to.
        """
        self.verdicts[key] = verdict
        about = {"key": key, "judge": identity}
        about |= {"question": row.question, "expected": row.expected, "answer": row.answer}
        make_folder(self.path.parent)
        append_text(self.path, json_line({**about, **asdict(verdict)}), whole_lines=True)
