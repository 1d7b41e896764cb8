"""The code blocks of the README and of the docs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "notebooks/README.md", "docs/experiments/README.md")


class Block(NamedTuple):
    """One code block: the page it is on, its language, and its text."""

    page: str
    language: str
    text: str


def blocks(page: str, language: str) -> list[str]:
    """The texts of a page's blocks in one language."""
    return [block.text for block in every_block() if block.page == page and block.language == language]


def every_block() -> Iterator[Block]:
    """The blocks of all pages that name their language."""
    pages = [*PAGES, *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        for language, body in re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            yield Block(page, language, body)


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of a shell block as words, without comments; those over several lines are one."""
    waiting = ""
    for line in text.splitlines():
        waiting += line
        try:
            words = shlex.split(waiting.removesuffix("\\"), comments=True)
        except ValueError:  # a quotation that goes on
            waiting += "\n"
            continue
        if waiting.endswith("\\"):
            waiting = waiting[:-1]
            continue
        if words:
            yield words
        waiting = ""
    assert not waiting, waiting
