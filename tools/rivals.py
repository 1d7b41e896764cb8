"""Puts the outcome of ``hermes sweep experiment=rivals`` into the docs and the README.

``python tools/rivals.py [FOLDER]``, by default ``runs/sweep/rivals``; ``make rivals`` runs the sweep before.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from hermes.files import write_text_whole
from hermes.pages import markdown

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "experiments" / "rivals"
BUDGET = "64"
COLUMNS = ("real-time", "backward", "all", "less hermes", "less recent", "TTFT (ms)", "a frame (ms)")
BYTES = ("memory (kB)", "archive (kB)")
MARKS = ("<!-- rivals: made by tools/rivals.py -->\n", "<!-- /rivals -->\n")


def overview(page: str, budget: str = BUDGET) -> list[dict[str, str]]:
    """The rows of the page's table at a budget."""
    part = page.partition(f"### policy.budget={budget}\n")[2].partition("\n#")[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in part.splitlines()
        if line.startswith("|")
    ]
    head = ["method", *(cell.strip() for cell in lines[0][1:])]
    return [dict(zip(head, line, strict=True)) for line in lines[2:]]


def table(page: str) -> str:
    """The README's table: best first, with the bytes of memory and archive together."""
    rows = sorted(overview(page), key=lambda row: -float(row["all"].split()[0]))
    head, out = ["method", *COLUMNS, "held, median (kB)"], []
    for row in rows:
        held = sum(float(row[name]) for name in BYTES if row[name] != "-")
        # The page's cells are Markdown already.
        cells = [f"`{row['method']}`", *(row[name] for name in COLUMNS), f"{held:.0f}"]
        out.append(list(map(markdown.Markdown, cells)))
    return f"{markdown.table(head, out)}\n"


def main() -> None:
    """Copy the page and its pictures, and put the table between the README's marks."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "sweep" / "rivals"
    DOCS.mkdir(parents=True, exist_ok=True)
    for name in ("table.md", "plot.png", "costs.png", "matched.csv"):
        shutil.copy(folder / name, DOCS / name)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    made = table((DOCS / "table.md").read_text(encoding="utf-8"))
    start, end = MARKS
    found, times = re.subn(
        f"{re.escape(start)}.*?{re.escape(end)}", f"{start}{made}{end}", text, flags=re.DOTALL
    )
    if times != 1:
        raise SystemExit(f"{readme} must have {start.strip()} and {end.strip()} once")
    write_text_whole(readme, found)


if __name__ == "__main__":
    main()
