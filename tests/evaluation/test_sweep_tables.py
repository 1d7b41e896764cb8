"""A sweep's page: baselines, repetitions, costs, the same bytes, and many lines."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hermes.config import Extras
from hermes.errors import SettingError
from hermes.evaluation import AnswerRow, compare_runs
from hermes.evaluation.reports.sweep_page import check_extras, write_sweep
from hermes.evaluation.results.journal import read_run
from hermes.evaluation.scoring.compare import compare_rows
from hermes.evaluation.scoring.same_bytes import difference, mean_of, persistent, within_bytes
from hermes.evaluation.scoring.statistics import clustered, clustered_difference
from hermes.evaluation.scoring.summary import score, summarise
from hermes.evaluation.sweeps.cells import SweepCell, cells_of
from hermes.evaluation.sweeps.running import Outcome
from tests.support.command_line import hermes
from tests.support.runs import experiment, row, write_run


def test_a_baseline_may_be_no_text():
    cells = cells_of(["policy=hermes", "policy.tiers.sensory.full=true,false"])
    check_extras(cells, Extras(baseline={"policy.tiers.sensory.full": False}))
    with pytest.raises(SettingError, match="baseline: got"):
        check_extras(cells, Extras(baseline={"policy.tiers.sensory.full": None}))


def outcome_of(folder: Path, cell: SweepCell, rows: list[AnswerRow]) -> Outcome:
    write_run(folder / "cells" / cell.hash, rows)
    return Outcome(cell, summarise(rows).record())


def test_a_table_of_few_videos_warns_and_counts_cells_that_were_asked_less(tmp_path):
    outcomes = [
        outcome_of(
            tmp_path,
            SweepCell({name: ""}, (), name),
            [row(c, n, c + n < most) for c in range(8) for n in (0, 1)],
        )
        for name, most in (("some", 8), ("most", 9))
    ]
    other = SweepCell({"other": ""}, (), "other")
    outcomes.append(outcome_of(tmp_path, other, [row(c, n, n > 4) for c in range(40) for n in range(10)]))
    page = write_sweep(outcomes, tmp_path, Extras(baseline="some")).read_text()
    lines = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    assert "*)" in lines["most"]
    assert "*)" not in lines["other"]
    assert ", n 400 |" in next(line for line in page.splitlines() if line.startswith("| other | 50.0"))
    assert "A star: few videos" in page
    assert "A star" not in write_sweep(outcomes[2:], tmp_path, Extras()).read_text()


def test_pooled_repetitions_of_one_video_are_one_cluster(tmp_path):
    rows = [row(c, n, (c * n) % 3 == 0) for c in range(20) for n in range(5)]
    for key, videos in (("seed", 20), ("data.seed", 60)):
        folder = tmp_path / key
        outcomes = [
            outcome_of(folder, SweepCell({"policy": policy, key: str(i)}, (), f"{policy}{i}"), rows)
            for policy in ("fifo", "full")
            for i in range(3)
        ]
        page = write_sweep(outcomes, folder, Extras(pool=[key], baseline={"policy": "fifo"})).read_text()
        with (folder / "table.csv").open() as file:
            lines = [line for line in csv.DictReader(file) if line["group"] == "overall"]
        assert [int(line["n"]) for line in lines] == [300, 300]
        right, asked = (
            np.array([sum(r.clip == c and test(r) for r in rows) for c in range(20)])
            for test in (lambda r: r.correct, lambda r: True)
        )
        times = videos // 20
        wanted = clustered(np.tile(right * (3 // times), times), np.tile(asked * (3 // times), times))
        assert (float(lines[0]["low"]), float(lines[0]["high"])) == pytest.approx(wanted[:2])
        assert "| full | +0.0 (" in page


def test_ages_have_a_table_for_each_category_and_place_and_few_questions_are_left_out(tmp_path):
    def rows(right: int) -> list[AnswerRow]:
        # 20 videos: of each an old question and a fresh one, and one about the present; one is much older.
        old = [row(clip, 0, clip < right, age_s=20.0) for clip in range(20)]
        fresh = [row(clip, 1, True, age_s=5.0) for clip in range(20)]
        now = [row(clip, 2, True, category="real-time", age_s=0.0) for clip in range(20)]
        return [*old, *fresh, *now, row(0, 3, True, age_s=100.0)]

    outcomes = [
        outcome_of(
            tmp_path,
            SweepCell({"policy": policy, "policy.budget": str(budget)}, (), f"{policy}{budget}"),
            found,
        )
        for policy, found in (("fifo", rows(5)), ("full", rows(20)))
        for budget in (8, 16, 32)
    ]
    # Stopped early: 9 of the old questions, 12 of the fresh ones.
    part = [r for r in rows(20) if (r.number == 0 and r.clip < 9) or (r.number == 1 and r.clip < 12)]
    outcomes.append(
        outcome_of(tmp_path, SweepCell({"policy": "part", "policy.budget": "32"}, (), "part"), part)
    )
    outcomes.append(outcome_of(tmp_path, SweepCell({"spread": ""}, (), "spread"), rows(10)))
    page = write_sweep(outcomes, tmp_path, Extras()).read_text()
    section = page.partition("## Age of the evidence")[2]
    for place in ("policy.budget=8", "policy.budget=16", "policy.budget=32"):
        block = section.partition(f"**backward, {place}**\n\n")[2].partition("\n\n")[0].splitlines()
        assert block[0] == "|  | 4-8 s | 16-32 s |"
        cells = [
            [cell.strip().partition(" ")[0] for cell in line.strip("|").split("|")] for line in block[2:]
        ]
        part = [["part", "100.0", "-"]] if place.endswith("32") else []
        both = [["fifo", "100.0", "25.0"], ["full", "100.0", "100.0"]]
        assert cells == [*both, *part, ["*questions*", "20", "20"]]
    told = section.partition("| part | ")[2].partition("\n")[0]
    assert told.startswith("100.0 (")
    assert told.endswith(", n 12 | - |")
    assert "| spread | 100.0 (84-100) | 50.0 (" in section.partition("**backward, without policy.budget**")[2]
    assert "real-time" not in section
    assert "![Accuracy by age of the evidence](ages.png)" in section
    assert (tmp_path / "ages.png").stat().st_size > 1000


def test_without_ages_there_is_no_section(tmp_path):
    cells = [SweepCell({"policy": policy}, (), policy) for policy in ("fifo", "full")]
    outcomes = [outcome_of(tmp_path, cell, [row(clip, 0, True) for clip in range(20)]) for cell in cells]
    assert "Age of" not in write_sweep(outcomes, tmp_path, Extras()).read_text()
    assert not (tmp_path / "ages.png").exists()


@pytest.mark.model
def test_a_baseline_gives_paired_differences_and_measures_their_columns(tmp_path):
    chosen = experiment(
        tmp_path,
        """
        title: A try
        data.streams: 6
        data.questions: 6
        data.world.length: 24
        data.kinds: [past_colour, now_place]
        generation.max_new_tokens: 2
        threads: 1
        baseline: {policy: full}
        measures: [ttft, lag]
        paper: {policy=fifo policy.budget=12: {backward: 12.5}, elsewhere: 3}
        sweep: {policy: [full, fifo], policy.budget: [12, 24]}
        besides:
          spread: {policy: uniform, policy.budget: 16}
        """,
    )
    out = tmp_path / "out"
    assert hermes("sweep", chosen, f"output={out}").code == 0
    page = (out / "table.md").read_text()
    assert "| fifo | 12 |" in page
    assert "published: backward" in page
    assert "- elsewhere: 3" in page
    assert "TTFT (ms) | lag (s) |" in page
    with (out / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    cells = {cell.label: out / "cells" / cell.hash for cell in cells_of([chosen])}
    assert set(cells) >= {"policy=full policy.budget=12", "spread policy=uniform policy.budget=16"}
    for budget in ("12", "24"):
        (line,) = (
            x for x in lines if (x["policy"], x["policy.budget"], x["group"]) == ("fifo", budget, "overall")
        )
        own = compare_runs(
            cells[f"policy=full policy.budget={budget}"], cells[f"policy=fifo policy.budget={budget}"]
        ).overall
        assert float(line["difference"]) == pytest.approx(own.difference)
        assert float(line["difference_low"]) == pytest.approx(own.interval.low)
        assert own.difference < 0
    assert all(not x["difference"] for x in lines if x["policy"] == "full")
    with (out / "costs.csv").open() as file:
        assert {"ttft", "lag", "memory"} <= {x["measure"] for x in csv.DictReader(file)}
    for wrong, said in (
        ("measures: [tfft]", "measures: got 'tfft'"),
        ("baseline: none", "baseline: got 'none'"),
    ):
        result = hermes("sweep", experiment(tmp_path, wrong), f"output={tmp_path / 'x'}", "--dry-run")
        assert result.code == 2
        assert said in result.err


@pytest.mark.model
def test_repetitions_are_pooled_and_a_named_baseline_is_that_of_the_same_line(tmp_path):
    chosen = experiment(
        tmp_path,
        """
        data.streams: 3
        data.questions: 4
        data.world.length: 16
        generation.max_new_tokens: 2
        threads: 1
        baseline: all of it
        pool: [data.seed]
        cells:
          all of it: {policy: full}
          window: {policy: fifo}
        sweep: {policy.budget: [8, 12], data.seed: [0, 1]}
        """,
    )
    out = tmp_path / "out"
    assert hermes("sweep", chosen, f"output={out}").code == 0
    with (out / "table.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["group"] == "overall"]
    assert [(line["cell"], line["policy.budget"]) for line in lines] == [
        *(("all of it", "8"), ("all of it", "12"), ("window", "8"), ("window", "12"))
    ]
    rows: dict[str, list[AnswerRow]] = {}
    for cell in cells_of([chosen]):
        label = SweepCell(
            {key: value for key, value in cell.values.items() if key != "data.seed"}, (), ""
        ).label
        rows.setdefault(label, []).extend(read_run(out / "cells" / cell.hash)[0])
    for line in lines:
        mine = rows[f"{line['cell']} policy.budget={line['policy.budget']}"]
        assert int(line["n"]) == len(mine)
        assert int(line["right"]) == sum(bool(row.correct) for row in mine)
        if line["cell"] == "window":
            base = sum(bool(row.correct) for row in rows[f"all of it policy.budget={line['policy.budget']}"])
            wanted = (int(line["right"]) - base) / len(mine)
            assert float(line["difference"]) == pytest.approx(wanted)
    result = hermes("sweep", experiment(tmp_path, "pool: [seed]"), f"output={tmp_path / 'x'}", "--dry-run")
    assert "pool: got 'seed'" in result.err


def sized(size: int, right: int, archive: int = 0) -> list[AnswerRow]:
    """Ten videos of four questions; of each the first ``right`` are answered."""
    held = {"memory_bytes": size, "archived_bytes": archive}
    return [row(c, n, n < right + c % 2, **held) for c in range(10) for n in range(4)]


def test_between_two_budgets_answers_count_by_the_logarithm_of_their_bytes():
    small, large = sized(1000, 1), sized(3000, 2, archive=1000)
    assert (persistent(small), persistent(large)) == (1000, 4000)
    found = within_bytes([large, small], 2000)
    assert found.held == 2000
    assert mean_of(found).value == pytest.approx((1.5 + 2.5) / 2 / 4)
    # Half way on the scale of logarithms: the question that one budget alone answers counts one half.
    assert {found.values["videos/0.mp4", 0, n][2] for n in (0, 1, 2)} == {1.0, 0.5, 0.0}
    assert within_bytes([large, small], 999) is None
    most = within_bytes([large, small], 9000)
    assert most.held == 4000
    exact = within_bytes([large, small], 4000)
    assert exact == most
    gap = difference(exact, found)
    assert gap.value == pytest.approx(0.125)
    assert gap.interval == clustered_difference(np.zeros(10), np.full(10, 0.5), np.full(10, 4))


def test_only_neighbouring_budgets_are_mixed():
    # 5 000 and 9 000 bytes are next to each other, and 1 000 and 9 000: the first pair that fits counts.
    found = within_bytes([sized(1000, 0), sized(9000, 1), sized(5000, 3)], 6000)
    weight = math.log(6) / math.log(9)
    assert found.values["videos/0.mp4", 0, 0][2] == pytest.approx(weight)
    # 1 000 and 9 000 are not, if what lies between holds less than both.
    assert within_bytes([sized(1000, 0), sized(500, 1), sized(900, 3)], 950).held == 950


def test_whole_answers_have_the_intervals_of_every_table():
    rows, other = sized(1000, 1), sized(1000, 2)
    own, base = within_bytes([rows], 1000), within_bytes([other], 1000)
    assert mean_of(own).interval[:2] == pytest.approx(score(rows).interval[:2])
    wanted = compare_rows(other, rows).overall
    assert difference(own, base).interval == wanted.interval
    assert difference(own, base).value == pytest.approx(wanted.difference)


def outcomes_along(folder: Path, names: int) -> Iterator[Outcome]:
    for i in range(names):
        for budget in (8, 16, 32):
            cell = SweepCell({f"m{i}": "", "policy.budget": str(budget)}, (), f"m{i}-{budget}")
            yield outcome_of(folder, cell, sized(1000 * budget * (1 + i % 2), (budget // 8 + i) % 4))


def test_many_lines_are_read_row_by_row_with_budgets_across(tmp_path):
    extras = Extras(baseline=["m0", "m1"], matched="m0", measures=["memory"])
    outcomes = list(outcomes_along(tmp_path, 9))
    check_extras([outcome.cell for outcome in outcomes], extras)
    page = write_sweep(outcomes, tmp_path, extras).read_text()
    assert "| policy.budget | 8 | 16 | 32 |" in page
    assert "Difference from m0, in points" in page
    assert "Difference from m1, in points" in page
    # With 8, m2 answers two of four questions more than m0 in every video, and m4 the same ones.
    part = page.partition("### policy.budget=8\n")[2].partition("\n#")[0]
    less_m0 = {line.split(" | ")[0].strip("| "): line.split(" | ")[2] for line in part.splitlines()[3:]}
    assert less_m0["m2"].startswith("**+50.0")
    assert less_m0["m2"].endswith("**†")
    assert less_m0["m4"].startswith("+0.0")
    assert not less_m0["m4"].endswith("†")
    assert not less_m0["m0"]
    # m1 holds twice the bytes: at those of m0 with 16 it has its own 8, at those with 8 nothing.
    with (tmp_path / "matched.csv").open() as file:
        lines = {(x["of"], x["method"]): x for x in csv.DictReader(file) if x["name"] == "all"}
    assert ("m0 at policy.budget=8", "m1") not in lines
    shown = lines["m0 at policy.budget=16", "m1"]
    assert float(shown["accuracy"]) == pytest.approx(np.mean([r.correct for r in sized(1, 2)]))
    own = lines["m0 at policy.budget=16", "m0"]
    assert float(shown["less m0"]) == pytest.approx(float(shown["accuracy"]) - float(own["accuracy"]))
    assert "Within what m0 at policy.budget=16 holds, 16 kB" in page
    with (tmp_path / "table.csv").open() as file:
        first = next(x for x in csv.DictReader(file) if x["cell"] == "m1" and x["group"] == "overall")
    assert float(first["difference (m0)"]) == pytest.approx(10 / 40)
    assert not first["difference (m1)"]
    assert (tmp_path / "plot.png").stat().st_size > 20_000


def test_few_lines_keep_a_line_a_cell(tmp_path):
    page = write_sweep(list(outcomes_along(tmp_path, 3)), tmp_path, Extras(baseline="m0")).read_text()
    assert "| cell | policy.budget | all |" in page
    assert "Difference from the baseline" in page
    assert "†" not in page


def test_what_is_matched_must_be_a_line_along_a_budget(tmp_path):
    cells = [outcome.cell for outcome in outcomes_along(tmp_path, 3)]
    with pytest.raises(SettingError, match="matched: got 'm3'"):
        check_extras(cells, Extras(matched="m3"))
    # One budget, as given on the command line: nothing is matched, and nothing refused.
    check_extras(cells[:1], Extras(matched="m0"))


def test_a_logarithm_of_bytes_is_not_a_share_of_them():
    found = within_bytes([sized(100, 0), sized(10_000, 3)], 200)
    weight = math.log(2) / math.log(100)
    assert found.values["videos/0.mp4", 0, 0][2] == pytest.approx(weight)


def test_cells_without_a_place_on_the_axis_are_shown(tmp_path):
    outcomes = list(outcomes_along(tmp_path, 9))
    outcomes.append(outcome_of(tmp_path, SweepCell({"beside": ""}, (), "beside"), sized(1000, 3)))
    page = write_sweep(outcomes, tmp_path, Extras(baseline="m0", measures=["memory"])).read_text()
    assert "### Without policy.budget" in page
    assert "| policy.budget | 8 | 16 | 32 | none |" in page
    shown = next(line for line in page.splitlines() if line.startswith("| beside |  |  |  |"))
    assert "87.5" in shown
