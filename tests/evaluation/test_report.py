"""`hermes report`: the page and plots of a run, and the intervals of its scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hermes.evaluation import AnswerRow, Journal, Score, summarise
from hermes.evaluation.reports.run_page import calibration, write_report
from hermes.evaluation.scoring.metrics import calibration_error, metrics
from hermes.evaluation.scoring.statistics import clustered, wilson
from tests.support.command_line import hermes
from tests.support.runs import row, write_run

PNG = b"\x89PNG"
LETTERS = "ABCD"


def mixed(videos: int = 30) -> list[AnswerRow]:
    """Open and multiple-choice questions of two categories, some old, one in ten unscored."""
    rng = np.random.default_rng(0)
    found = []
    for clip in range(videos):
        for number in range(6):
            right = bool(rng.random() < 0.7)
            given = {"ttft_ms": float(rng.lognormal(3, 0.5)), "category": ("now", "past")[number % 2]}
            if number % 2:
                given["age_s"] = float(2 ** rng.uniform(0, 6))
            if number % 3 == 0:
                share = float(rng.uniform(0.3, 0.99))
                rest = (1 - share) / 3
                probabilities = {letter: share if letter == "B" else rest for letter in LETTERS}
                given |= {"choices": tuple("wxyz"), "choice": "B", "probabilities": probabilities}
            found.append(row(clip, number, None if clip == 4 and number == 5 else right, **given))
    return found


def table(page: str, head: str) -> list[list[str]]:
    """The cells of the table whose first line starts so."""
    lines = page[page.index(f"| {head} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines if "---" not in line]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    about = {"versions": {"torch": "2.13"}, "prompts": {"local": "ab12"}}
    folder = write_run(tmp_path_factory.mktemp("runs") / "a|run", mixed(), **about)
    write_report(folder)
    return folder


def test_the_page_says_what_the_rows_say(run):
    page = (run / "report.md").read_text()
    summary = summarise(Journal(run).rows.values())
    found = {line[0]: line[1:] for line in table(page, "category")}
    for name, score in {**summary.by_category, "all": summary.overall}.items():
        low, high = (100 * end for end in score.interval)
        wanted = [str(score.n), "30", f"{100 * score.accuracy:.1f}", f"{low:.1f} to {high:.1f}"]
        assert found[name] == [*wanted, "clustered", "25"]
    assert len(table(page, "kind")) == 1 + len(summary.by_kind)
    ages = table(page, "category, age")[1:]
    assert sum(int(line[1]) for line in ages) == sum(s.n for s in summary.by_age["past"].values())
    assert "179 questions scored, in 30 videos; 1 of 180 have no answer in the benchmark" in page
    for said in ("policy.name | hermes", "torch 2.13", "sha256 ab12", "  budget: 64"):
        assert said in page


def test_every_plot_has_a_table_and_is_there(run):
    page = (run / "report.md").read_text()
    for name in ("accuracy", "age", "ttft", "calibration"):
        assert f"](plots/{name}.png)\n\n" in page
        assert page.split(f"](plots/{name}.png)\n\n")[1].startswith("| ")
        assert (run / "plots" / f"{name}.png").read_bytes().startswith(PNG)
    assert len(list((run / "plots").iterdir())) == 4


def test_the_same_page_again(run):
    page = (run / "report.md").read_bytes()
    assert write_report(run).read_bytes() == page


def test_times(run):
    times = [r.ttft_ms for r in Journal(run).rows.values()]
    (_, cells) = table((run / "report.md").read_text(), "answers")
    assert cells[0] == "180"
    assert float(cells[3]) == pytest.approx(np.median(times), abs=0.06)


def test_calibration_bins():
    given = {"choices": ("w", "x"), "choice": "A"}
    rows = [row(clip, 0, clip < 3, probabilities={"A": 0.75, "B": 0.25}, **given) for clip in range(4)]
    rows += [row(clip, 1, True, probabilities={"A": 1.0, "B": 0.0}, **given) for clip in range(4)]
    # Neither chosen, nor scored.
    rows += [row(9, 0, True), row(9, 1, None, probabilities={"A": 0.5, "B": 0.5}, **given)]
    bins = calibration(rows)
    assert {name: (mean, s.right, s.n) for name, (mean, s) in bins.items()} == {
        "0.7-0.8": (0.75, 3, 4),
        "0.9-1.0": (1.0, 4, 4),
    }
    assert calibration(rows[-2:]) == {}


def test_calibration_is_that_of_the_metrics(tmp_path):
    rng = np.random.default_rng(1)
    rows = []
    for clip in range(60):
        share = float(rng.uniform(0.55, 0.99))
        right, probabilities = bool(rng.random() < share**2), {"A": share, "B": 1 - share}
        given = {"choices": ("w", "x"), "choice": "A", "expected": "w" if right else "x"}
        rows.append(row(clip, 0, right, probabilities=probabilities, **given))
    page = write_report(write_run(tmp_path / "a", rows)).read_text()
    assert f"Expected calibration error: {100 * calibration_error(rows):.1f} points" in page


def test_what_was_asked_again_is_in_no_other_table(tmp_path):
    given = {"choices": ("w", "x"), "choice": "A", "probabilities": {"A": 0.75, "B": 0.25}}
    rows = [row(clip, 0, clip < 9, **given) for clip in range(12)] + [row(0, 1, None)]
    again = [
        row(clip, 0, False, delay_s=4.0, **given | {"answer": "?", "ttft_ms": 99.0}) for clip in range(12)
    ]
    one = write_report(write_run(tmp_path / "a", rows)).read_text()
    two = write_report(write_run(tmp_path / "b", [*rows, *again])).read_text()
    assert "## Asked again" in two
    for said in ("1 of 13 have no answer", "Expected calibration error: 0.0 points", "| 13 | 5.0 | "):
        assert said in one
        assert said in two
    assert metrics(rows) == metrics([*rows, *again])


def test_a_run_without_ages_choices_or_answers(tmp_path):
    page = write_report(write_run(tmp_path / "a", [row(c, 0, c > 2) for c in range(9)])).read_text()
    assert "| wilson |" in page
    assert "Calibration" not in page
    assert "evidence" not in page
    page = write_report(write_run(tmp_path / "b", [row(0, 0, None)])).read_text()
    assert "0 questions scored" in page
    assert "1 of 1 have no answer" in page
    assert [path.name for path in (tmp_path / "b" / "plots").iterdir()] == ["ttft.png"]


def test_scores_know_their_videos():
    rows = [row(clip, number, clip % 3 > 0) for clip in range(6) for number in range(2)]
    overall = summarise(rows).overall
    assert overall.by_video == ((0, 2), (2, 2), (2, 2), (0, 2), (2, 2), (2, 2))
    assert overall.interval == clustered(np.array([0, 2, 2, 0, 2, 2]), np.full(6, 2))[:2]
    record = overall.record()
    assert (record["interval"], record["videos"], record["doubtful"]) == ("clustered", 6, True)
    assert overall.span.endswith("*")
    single = summarise(rows[::2]).overall
    assert single.interval == wilson(4, 6)
    assert single.record()["interval"] == "wilson"
    # A path twice in the benchmark is one video.
    assert len(summarise([row(0, 0, True), row(1, 0, True, video="videos/0.mp4")]).overall.by_video) == 1
    assert Score(0, 0, None).record()["interval"] == "wilson"


def test_the_command(run, tmp_path):
    done = hermes("report", str(run))
    assert (done.code, done.out) == (0, f"{run / 'report.md'}\n"), done.err
    missing = hermes("report", str(tmp_path))
    assert missing.code == 2
    assert "not the folder of a run of 'hermes eval'" in missing.err
    folder = write_run(tmp_path / "x", [row(0, 0, True)])
    (folder / "plots").write_text("")
    wrong = hermes("report", str(folder))
    assert wrong.code == 2
    assert "cannot be written" in wrong.err
    assert json.loads((folder / "manifest.json").read_text())["seed"] == 0
