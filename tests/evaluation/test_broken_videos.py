"""A video that cannot be read costs its own questions; the end of a run says so, and what to do next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.progress import Task

from hermes.backbone import load_backbone
from hermes.cli.progress import Bars, Remaining
from hermes.errors import InputError, SettingError
from hermes.evaluation import Journal, eval_config, evaluate, write_report
from hermes.evaluation.results.journal import read_broken
from tests.support.command_line import hermes
from tests.support.reader_cases import save

FAST = ("policy=fifo", "policy.budget=32", "generation.max_new_tokens=1")


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded")


def benchmark(folder: Path) -> list[str]:
    """Five videos: good, no array, cut short, gone while the run goes on, good."""
    frames = np.random.default_rng(0).integers(0, 255, (6, 48, 48, 3), np.uint8)
    for name in ("a", "b", "c", "d", "e"):
        np.save(folder / f"{name}.npy", frames)
    (folder / "b.npy").write_bytes(b"no array")
    whole = (folder / "c.npy").read_bytes()
    (folder / "c.npy").write_bytes(whole[: len(whole) // 2])
    asked = [{"question": f"Q{time}?", "answer": "x", "end_time": time} for time in (2, 5)]
    content = [{"video_path": f"{name}.npy", "conversations": asked} for name in "abcde"]
    return ["data=annotations", f"data.annotations={save(folder, content)}", f"data.videos={folder}", *FAST]


@pytest.mark.model
def test_the_videos_after_a_broken_one_are_asked(embedded, tmp_path: Path) -> None:
    config = eval_config(benchmark(tmp_path))
    assert len(config.data) == 5
    gone = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").unlink()
    seen: list[tuple[int, int]] = []
    found = evaluate(config, tmp_path / "run", backbone=embedded, watcher=lambda *counts: seen.append(counts))
    assert sorted(Journal(tmp_path / "run").rows) == [(0, 0, 0.0), (0, 1, 0.0), (4, 0, 0.0), (4, 1, 0.0)]
    assert [(one.clip, one.questions) for one in found.broken] == [(1, 2), (2, 2), (3, 2)]
    assert [Path(one.video).name for one in read_broken(tmp_path / "run")] == ["b.npy", "c.npy", "d.npy"]
    # Questions are counted, from none to all.
    assert seen == [(count, 10) for count in range(11)]
    page = write_report(tmp_path / "run").read_text()
    assert "Videos that could not be read" in page
    assert "d.npy: 2 questions not asked" in page
    # When it has come back, the same command asks what is missing, and the record forgets the fault.
    (tmp_path / "d.npy").write_bytes(gone)
    seen.clear()
    again = evaluate(config, tmp_path / "run", backbone=embedded, watcher=lambda *counts: seen.append(counts))
    assert [one.clip for one in again.broken] == [1, 2]
    assert seen[0] == (4, 10)
    assert len(Journal(tmp_path / "run").rows) == 6


@pytest.mark.model
def test_the_command_names_them_and_its_exit_code_tells(tmp_path: Path) -> None:
    given = [*benchmark(tmp_path), f"output={tmp_path / 'run'}"]
    found = hermes("eval", *given)
    assert found.code == 2
    for name in ("b.npy", "c.npy"):
        assert f"{name}: 2 questions not asked" in " ".join(found.err.split())
    # The end shows what it cost, and the next commands.
    for part in ("TTFT (ms)", "lag (s)", "memory (kB)", "next: hermes report", "hermes compare"):
        assert part in found.out
    record = hermes("eval", *given, "--json")
    assert record.code == 2
    assert [Path(one["video"]).name for one in record.records[0]["broken"]] == ["b.npy", "c.npy"]


@pytest.mark.model
def test_no_video_at_all_is_no_run(embedded, tmp_path: Path) -> None:
    given = benchmark(tmp_path)
    for name in "abcde":
        (tmp_path / f"{name}.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"no question could be asked: .*a\.npy"):
        evaluate(eval_config(given), tmp_path / "run", backbone=embedded)


@pytest.mark.model
def test_a_fault_of_the_question_costs_that_question(embedded, tmp_path: Path, monkeypatch) -> None:
    from hermes.session.session import StreamSession

    asked = StreamSession.ask

    def ask(self, question, *args, **named):
        if question == "Q2?" and kind is not None:
            raise kind("policy.x", 1) if kind is SettingError else kind("cannot be asked")
        return asked(self, question, *args, **named)

    monkeypatch.setattr(StreamSession, "ask", ask)
    config, kind = eval_config(benchmark(tmp_path)), InputError
    found = evaluate(config, tmp_path / "run", backbone=embedded)
    assert {place[1] for place in Journal(tmp_path / "run").rows} == {1}
    assert next(one for one in found.broken if one.clip == 0).error == "question at 2 s: cannot be asked"
    # A wrong setting is as wrong for every other question.
    kind = SettingError
    with pytest.raises(SettingError):
        evaluate(config, tmp_path / "other", backbone=embedded)


def test_the_time_left_is_known_from_the_first_item() -> None:
    clock = [0.0]
    bars = Bars(shown=False)
    bars.get_time = lambda: clock[0]
    watch = bars.watcher("questions")
    (task,) = bars.tasks
    watch(40, 100)
    # What was done before tells nothing.
    assert told(task) == "-:--:--"
    clock[0] = 10.0
    watch(41, 100)
    assert told(task) == "0:09:50"
    clock[0] = 20.0
    watch(100, 100)
    assert told(task) == "0:00:00"


def told(task: Task) -> str:
    return Remaining().render(task).plain
