"""One video watched once: each question is asked when its time has come."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from hermes.backbone.loading import native_fps
from hermes.cli.answers import Writer, run_record
from hermes.cli.output import err, note
from hermes.cli.questions import Question, check_times
from hermes.config import resolved_yaml
from hermes.errors import InputError
from hermes.files import write_torch_whole
from hermes.session.config import RunConfig, run_config
from hermes.session.memory_map import session_map
from hermes.session.opening import session_from
from hermes.session.session import StreamSession
from hermes.video import Frame, FrameSource, open_source


def watch(
    spec: str,
    asked: Sequence[Question],
    overrides: Sequence[str],
    writer: Writer,
    memory_map: Path | None,
    probe_result: Path | None,
) -> None:
    """Watch a video, ask, report, draw the memory map and keep what a probe saw."""
    config = run_config(overrides)
    if probe_result is not None and config.probe is None:
        raise InputError("--probe-result: nothing watches; name a probe with probe=NAME (hermes list probes)")
    # The rate is the family's own where no setting names it. It is known before the model is loaded, so that
    # the video is opened before, and once: a pipe cannot be read again.
    rate = config.video.fps or native_fps(config.backbone)
    source = _open(spec, asked, config, rate)
    shown = writer.streams and sys.stderr.isatty()
    try:
        with err().status("loading the model") if shown else nullcontext():
            session = session_from(replace(config, video=replace(config.video, fps=rate)))
        with session:
            run = run_record(session, config, overrides)
            with _watched(source, config.video.end, shown) as frames:
                for question in _when_due(session, frames, asked):
                    frames.bar.stop()
                    writer.asking(question, session.now)
                    answer = session.ask(
                        question.question,
                        question.choices,
                        correct=question.answer,
                        on_text=writer.text if writer.streams else None,
                    )
                    writer.answered(question, answer, {**run, "warnings": list(source.warnings)})
                    frames.bar.start()
            writer.finished(session, run)
            if memory_map is not None:
                title = f"{run['policy']}, budget {run['budget']}: {Path(source.name).name}"
                table = session_map(session, memory_map, start=config.video.start, title=title)
                writer.saved(f"memory map: {memory_map} (as a table: {table})")
            if probe_result is not None and config.probe is not None:
                seen = {"result": config.probe.result(), "run": run, "settings": resolved_yaml(config)}
                write_torch_whole(probe_result, seen)
                writer.saved(f"the probe's result: {probe_result}")
    finally:
        source.close()
    if not session.backbone.config.checkpoint:
        text = (
            "the weights are random: answers mean nothing; name a checkpoint with backbone=HUB_ID_OR_FOLDER"
        )
        note("note", text, "bold yellow")


def _open(spec: str, asked: Sequence[Question], config: RunConfig, fps: float) -> FrameSource:
    video = config.video
    source = open_source(spec, fps=fps, start=video.start, end=video.end, **video.reading())
    try:
        check_times(asked, source.name, video.start, _end(source, video.end), 1 / fps)
    except InputError:
        source.close()
        raise
    return source


def _end(source: FrameSource, end: float | None) -> float | None:
    return min((time for time in (source.duration, end) if time is not None), default=None)


def _when_due(session: StreamSession, frames: _Watched, asked: Sequence[Question]) -> Iterator[Question]:
    """Each question once the frames before it are seen; those without a time at the end of the stream."""
    source = frames.source
    measured = source.duration is not None
    due = [(question.time, question) for question in asked if question.time is not None]
    due.sort(key=lambda pair: pair[0])
    watching = session.watch(frames, [time for time, _ in due])
    # zip takes the question first, so that nothing is read beyond what the last one needs.
    for (_, question), _ in zip(due, watching, strict=False):
        if not measured and frames.end is not None:
            check_times([question], source.name, 0.0, frames.end, 1 / session.fps)
        yield question
    rest = [question for question in asked if question.time is None]
    if rest:
        for _ in watching:
            pass
        # The last sample stands for a whole step, which may reach beyond the end.
        session.now = min(session.now, source.duration or session.now)
        yield from rest


class _Watched:
    """Frames on their way into the session; `end` (s) is known once there are no more."""

    def __init__(self, source: FrameSource, bar: Progress, total: float | None) -> None:
        self.source = source
        self.bar = bar
        self.task = bar.add_task("", total=total)
        self.end: float | None = None

    def __iter__(self) -> Iterator[Frame]:
        start = time = self.source.sampling.start
        for frame in self.source:
            time = frame.time + 1 / self.source.fps
            self.bar.update(self.task, completed=time - start)
            yield frame
        self.end = time


@contextmanager
def _watched(source: FrameSource, end: float | None, shown: bool) -> Iterator[_Watched]:
    stop = _end(source, end)
    seen = TextColumn("{task.completed:.0f} s")
    columns = (TextColumn("watching"), BarColumn(), TaskProgressColumn(), seen, TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True, disable=not shown) as bar:
        yield _Watched(source, bar, None if stop is None else stop - source.sampling.start)
