"""Every page, table, figure and printed line of a run whose texts are hostile: shown, and not obeyed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from hermes.config import Extras
from hermes.errors import InputError
from hermes.evaluation import write_report
from hermes.evaluation.reports.sweep_page import write_sweep
from hermes.evaluation.results.journal import Broken, read_run
from hermes.evaluation.scoring.summary import summarise
from hermes.evaluation.sweeps.cells import SweepCell
from hermes.evaluation.sweeps.running import Outcome
from tests.support.command_line import hermes
from tests.support.hostile import TEXTS
from tests.support.runs import row, write_run

SEEN = [text for text in TEXTS if text.strip()]


def rows(count: int = 4):
    """A category for every text, each with some answers, ages and delays."""
    found = []
    for clip, text in enumerate(SEEN):
        for number in range(count):
            given = {"video": f"{text}.mp4", "category": text, "task": text, "kind": f"{text} kind"}
            age, shares = float(number + 1), {"A": 0.75, "B": 0.25}
            given |= {"age_s": age, "choices": (text, "b"), "choice": "A", "probabilities": shares}
            found.append(row(clip, number, number % 2 == 0, question=text, id=text, **given))
            found.append(row(clip, number, number % 3 == 0, question=text, delay_s=8.0, **given))
    return found


def tags(page: Path) -> set[str]:
    html = MarkdownIt("commonmark", {"html": True}).enable(["table"]).render(page.read_text(encoding="utf-8"))
    return set(re.findall(r"<(\w+)", html))


PLAIN = {
    "h1",
    "h2",
    "h3",
    "p",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "img",
    "strong",
    "em",
    "code",
    "pre",
}
PLAIN |= {"ul", "li"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    about = {
        "versions": {text: text for text in SEEN if "\ud83d" not in text},
        "judge": {"name": "`x`", "[/ocr]": "$\\frac$"},
    }
    folder = tmp_path_factory.mktemp("hostile") / "[ocr] $\\frac$ <b>"
    made = write_run(folder, rows(), policy='"[/ocr]"', device="[red]", average="`<b>`", **about)
    broken = Broken(99, "[/ocr].mp4", 2, "$\\frac$ <b>")
    (made / "broken.jsonl").write_text(json.dumps(vars(broken)) + "\n")
    return made


def test_the_page_of_a_run(run: Path) -> None:
    page = write_report(run)
    assert tags(page) <= PLAIN
    text = page.read_text(encoding="utf-8")
    assert "onerror" in text  # as text
    assert "$\\frac$ &lt;b&gt;" in text.replace("\\\\", "\\").replace("\\$", "$")
    assert {path.name for path in (run / "plots").iterdir()} >= {"accuracy.png", "age.png", "delay.png"}


def test_the_commands_print_every_text(run: Path) -> None:
    for command in (
        ["report", str(run)],
        ["compare", str(run), str(run)],
        ["judge", str(run), "judge=words"],
    ):
        found = hermes(*command)
        assert "MarkupError" not in found.err
        assert found.code in (0, 2), found.err
    printed = hermes("compare", str(run), str(run)).out
    for text in ("[/ocr]", "[ocr] signs", ":smile:", "$\\frac$"):
        assert text in printed


def test_the_end_of_a_run_prints_every_text(run: Path, capsys) -> None:
    from hermes.cli.eval import show_summary

    show_summary(summarise(read_run(run)[0]), run)
    printed = " ".join(capsys.readouterr().out.split())
    for text in ("[/ocr]", "[ocr] signs", "[bold red]x[/bold red]", ":smile: :warning:", "$\\frac$"):
        assert text in printed


def test_the_page_of_a_sweep(run: Path, tmp_path: Path) -> None:
    found = []
    for number, text in enumerate(SEEN[:6]):
        cell = SweepCell({text: "", "policy.budget": f"{64 * (1 + number % 3)}"}, (), f"{number:016x}")
        made = [one for one in rows() if one.clip < 8]
        write_run(tmp_path / "cells" / cell.hash, made)
        found.append(Outcome(cell, summarise(made).record()))
    found.append(Outcome(SweepCell({"[/ocr]": "<b>"}, (), "f" * 16), None, "$\\frac$ [/ocr] <b>\n# x"))
    page = write_sweep(found, tmp_path, Extras(title="[/ocr] <b> $\\frac$", paper={"<i>": "<u>|"}))
    assert tags(page) <= PLAIN
    for path in tmp_path.glob("*.csv"):
        assert not re.search(r'(^|,)"?[=+@]', path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_an_error_in_the_name_of_a_file_is_printed_as_it_is(tmp_path: Path) -> None:
    for name in ("[/ocr]", "[bold]x", ":smile:"):
        found = hermes("report", str(tmp_path / name))
        assert found.code == 2
        assert name in found.err


def test_settings_of_a_manifest_are_text(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    settings = "policy:\n  name: ${oc.env:SECRET}\n  budget: ${.name}\noutput: x\n"
    a = write_run(tmp_path / "a", rows(1), settings=settings)
    b = write_run(tmp_path / "b", rows(1), settings=settings.replace("x", "${oc.env:SECRET}"))
    page = write_report(a).read_text(encoding="utf-8")
    assert "hunter2" not in page
    assert "oc.env:SECRET" in page
    printed = hermes("compare", str(a), str(b))
    assert printed.code == 0, printed.err
    assert "hunter2" not in printed.out


@pytest.mark.parametrize(
    "settings",
    [
        "a: &x [1]\nb: *x",
        "!!python/object/apply:os.system ['true']",
        "[" * 5000,
        "{" * 300 + "}" * 300,
        "\0",
        "- 1",
        "a: [",
        "x" * (1 << 19),
        "a: ${",
    ],
)
def test_settings_that_are_none_are_named(settings: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", rows(1)[:2], settings=settings)
    for command in (["report", str(run)], ["compare", str(run), str(run)]):
        found = hermes(*command)
        # A text that is no settings at all, but harmless, is shown.
        assert found.code in (0, 2)
        assert found.code == 0 or f"{run / 'manifest.json'}: settings" in found.err
    if settings != "a: ${":
        with pytest.raises(InputError, match="settings"):
            write_report(run)
