"""The file that verdicts are kept in."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

from hermes.errors import InputError
from hermes.evaluation.judging.judge import Verdict
from hermes.evaluation.results.rows import AnswerRow
from hermes.files import append_text, make_folder

__all__ = ["VerdictFile"]

_logger = logging.getLogger("hermes.evaluation")


class VerdictFile:
    """Verdicts in a file of JSON lines, by a hash of the judge, the question and both answers.

    Each line has the judge, the words it was given, the messages, the raw replies and the verdict. Lines that
    were cut short are passed over; of two with the same key the later one counts.

    Args:
        path: of the file; it need not be there.

    Raises:
        InputError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.verdicts: dict[str, Verdict] = {}
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        broken = 0
        for line in lines:
            try:
                content = json.loads(line)
                self.verdicts[content["key"]] = Verdict(
                    content["correct"],
                    content["score"],
                    tuple(content["messages"]),
                    tuple(content["replies"]),
                )
            except (ValueError, TypeError, KeyError):
                broken += 1
        if broken:
            _logger.warning("%s: %d lines are no verdicts and are passed over", path, broken)

    def add(self, key: str, identity: str, row: AnswerRow, verdict: Verdict) -> None:
        """Append a verdict; it is on disk when this returns.

        Raises:
            InputError: the file cannot be written to.
        """
        self.verdicts[key] = verdict
        about = {"key": key, "judge": identity}
        about |= {"question": row.question, "expected": row.expected, "answer": row.answer}
        make_folder(self.path.parent)
        append_text(self.path, json.dumps({**about, **asdict(verdict)}) + "\n", whole_lines=True)
