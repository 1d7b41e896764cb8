"""Texts of data on pages, in tables for spreadsheets and in figures: shown as they are, obeyed nowhere."""

from __future__ import annotations

import csv
import re
import warnings
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from hermes.files import write_csv_whole
from hermes.pages.markdown import Markdown, code, escape, fenced, table
from hermes.pages.styles import save_figure
from hermes.pages.text import in_figure, one_line
from tests.support.hostile import TEXTS


def rendered(text: str) -> str:
    return (
        MarkdownIt("commonmark", {"html": True, "linkify": False})
        .enable(["table", "strikethrough"])
        .render(text)
    )


def shown(html: str) -> str:
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        html = html.replace(entity, character)
    return html


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_in_markdown_is_that_text(text: str) -> None:
    html = rendered(f"x {escape(text)}").strip()
    inner = re.fullmatch("<p>x ?(.*)</p>", html, re.DOTALL)
    assert inner is not None
    assert "<" not in inner[1]
    assert shown(inner[1]).split() == one_line(text).split()
    # At the start of a line, too.
    assert re.fullmatch("(<p>[^<]*</p>)?", rendered(str(escape(text))).strip())


@pytest.mark.parametrize("text", TEXTS)
def test_a_cell_stays_a_cell(text: str) -> None:
    html = rendered(str(table(["a", text], [["1", text]])))
    assert html.count("<td>") == html.count("<th>") == 2
    assert set(re.findall(r"<(\w+)", html)) == {"table", "thead", "tbody", "tr", "th", "td"}


def test_what_is_markdown_already_stays() -> None:
    assert table(["a"], [[Markdown("**1**")]]).endswith("| **1** |")
    assert str(Markdown("**1**") + "†|") == "**1**†\\|"


@pytest.mark.parametrize(
    "number", ["60*", "61.5 (40-80*)", "+1.0 (-2.0 to 3.0)", "-", "1.2e-05", "data_file"]
)
def test_numbers_and_names_read_as_before(number: str) -> None:
    assert escape(number) == number


@pytest.mark.parametrize("text", ["a`b", "```", "x\n```\n<b>", *TEXTS])
def test_code_holds_whatever_it_is_given(text: str) -> None:
    if one_line(text).strip():
        assert re.fullmatch("<p><code>[^<]*</code></p>", rendered(str(code(text))).strip())
    html = rendered(f"{fenced(text, 'yaml')}\n\nafter")
    assert re.fullmatch(r'<pre><code class="language-yaml">[^<]*</code></pre>\n<p>after</p>\n', html)


@pytest.mark.parametrize("text", TEXTS)
def test_no_cell_of_a_table_is_a_formula(text: str, tmp_path: Path) -> None:
    path = write_csv_whole(tmp_path / "t.csv", [{"name": text, text: -1.5, "number": "-1.5"}])
    head, row = csv.reader(path.open(newline="", encoding="utf-8"))
    for cell in (*head, row[0]):
        assert cell.lstrip()[:1] not in ("=", "+", "-", "@")
    assert row[-1] == "-1.5"


@pytest.mark.parametrize("text", TEXTS)
def test_a_label_is_drawn_as_it_is(text: str, tmp_path: Path) -> None:
    label = in_figure(text)
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot([1, 2], label=label)
    axes.set(title=label, xlabel=label)
    axes.set_xticks([0, 1], [label, label])
    artist = axes.title
    assert artist._preprocess_math(label) == (label.replace(r"\$", "$"), False)
    # No line is hidden from the legend.
    assert len(axes.get_legend_handles_labels()[1]) == bool(label)
    figure.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_figure_of_any_size_is_saved(tmp_path: Path) -> None:
    save_figure(Figure(figsize=(2, 4000)), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
