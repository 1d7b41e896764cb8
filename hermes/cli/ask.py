"""`hermes ask`: a video, questions at given times, answers from a memory of fixed budget."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from hermes.cli.arguments import split_settings
from hermes.cli.output import err, note, out
from hermes.cli.questions import Question, check_times, read_questions
from hermes.errors import InputError

if TYPE_CHECKING:
    from hermes.session import Answer, StreamSession
    from hermes.settings import RunConfig
    from hermes.video import Frame, FrameSource

SAMPLE = "sample"

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

def ask(
    video: Annotated[
        str,
        typer.Argument(
            help="A video file, a folder of images, a .npy array, a URL or a camera. The word 'sample' is the "
            "bundled clip (./sample: a file of that name).",
            metavar="VIDEO",
        ),
    ],
    question: Annotated[
        str | None,
        typer.Argument(help="Left out with --questions, and with 'sample', which has its own.", metavar="QUESTION"),
    ] = None,
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, anywhere.")] = None,
    at: Annotated[
        float | None, typer.Option(help="Ask at this time, from the frames before it; default: the end.", metavar="SECONDS")
    ] = None,
    choices: Annotated[
        list[str] | None, typer.Option(help="Options of a multiple-choice question: --choices A B C.", metavar="TEXT...")
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Questions, one JSON object a line: question, time, choices, answer. Encoded once, asked in order of time.",
            metavar="FILE",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a question on stdout, nothing else.")] = False,
    memory_map: Annotated[
        Path | None,
        typer.Option(help="Draw what each layer still holds at the end, and a .csv beside it.", metavar="FILE.png"),
    ] = None,
    start: Annotated[float | None, typer.Option(help="Begin here; the same as video.start=.", metavar="SECONDS")] = None,
    end: Annotated[float | None, typer.Option(help="Stop here; the same as video.end=.", metavar="SECONDS")] = None,
) -> None:
    """Watch a video within a fixed memory budget and answer questions about it.

    Settings are key=value, anywhere after the command. The main ones:
    \b
    backbone=NAME                   a configuration, a hub id or a folder
    policy=NAME                     a memory policy, or yours: my_module.MyPolicy
    policy.budget=4000              video tokens that each layer holds
    policy.tiers.sensory.share=0.2  share of the layers; likewise .scorer, .merger
    video.fps=1                     frames sampled a second
    video.max_side=640              longer side of a frame, in pixels
    stream.chunk_frames=16          frames encoded at once
    generation.max_new_tokens=128   longest answer, in tokens
    backbone.device=cuda:1          where the model runs; default: a GPU, or the CPU
    seed=0                          of random policies and of sampling

    All of them with their values: hermes validate. Names: hermes list. One thing: hermes show NAME.

    Examples:
    \b
    hermes ask video.mp4 "What is he doing?" --at 90 backbone=llava_onevision_7b
    hermes ask video.mp4 "Which fruit?" --choices apple pear policy.budget=6000
    hermes ask video.mp4 --questions questions.jsonl --json policy=fifo
    hermes ask sample --memory-map map.png policy.budget=64
    """
    words, overrides = split_settings([video, question, *(settings or [])])
    overrides += [f"video.{key}={value}" for key, value in (("start", start), ("end", end)) if value is not None]
    spec, asked = _what_to_ask(words, at, tuple(choices or ()), questions)

    from hermes.memory_map import check_map_path
    from hermes.settings import run_config

    config = run_config(overrides)
    if memory_map is not None:
        check_map_path(memory_map)
    stdout = sys.stdout
    # With --json nothing but answers reaches stdout, whatever a plug-in prints.
    with redirect_stdout(sys.stderr if as_json else stdout):
        _run(spec, asked, config, memory_map, stdout if as_json else None)


def _what_to_ask(
    words: Sequence[str], at: float | None, choices: tuple[str, ...], file: Path | None
) -> tuple[str, list[Question]]:
    if not words:
        raise InputError(f"no VIDEO is given: name a file, or '{SAMPLE}' for the bundled clip")
    if len(words) > 2:
        extra = ", ".join(map(repr, words[2:]))
        raise InputError(f"unexpected: {extra}. Quote a question of several words; settings are key=value")
    spec, text = words[0], words[1] if len(words) > 1 else None
    from hermes.samples import CLIP, QUESTIONS

    if text is None and file is None and spec == SAMPLE and not choices and at is None:
        file = QUESTIONS
    if file is not None:
        if text is not None or choices or at is not None:
            raise InputError("--questions takes the place of QUESTION, --at and --choices: each line has its own")
        asked = read_questions(file)
    elif text is None:
        hint = ": QUESTION comes before --choices, or after '--'" if choices else ", nor a file of --questions"
        raise InputError(f"no QUESTION is given{hint}")
    else:
        asked = [Question(text, at, choices).check()]
    return str(CLIP) if spec == SAMPLE else spec, asked


def _run(
    spec: str, asked: Sequence[Question], config: RunConfig, memory_map: Path | None, lines: TextIO | None
) -> None:
    from hermes.cli import report
    from hermes.memory_map import session_map
    from hermes.run import session_from

    # The rate is the family's own where no setting names it: then the video is opened again once that is known.
    source = _open(spec, config, config.video.fps or config.backbone.fps or 1.0, asked)
    try:
        with err().status("loading the model") if _shows_progress(lines) else _nothing():
            session = session_from(config)
        if source.fps != session.fps:
            source.close()
            source = _open(spec, config, session.fps, asked)
        with session:
            run = report.run_record(session, config)
            _answer_all(session, source, asked, config, run, lines)
            if memory_map is not None:
                title = f"{run['policy']}, budget {run['budget']}: {Path(source.name).name}"
                table = session_map(session, memory_map, start=config.video.start, title=title)
                if lines is None:
                    out().print(f"memory map: {memory_map} (as a table: {table})", soft_wrap=True)
    finally:
        source.close()


def _open(spec: str, config: RunConfig, fps: float, asked: Sequence[Question]) -> FrameSource:
    from hermes.video import open_source

    video = config.video
    source = open_source(spec, fps=fps, start=video.start, end=video.end, max_side=video.max_side)
    ends = [time for time in (source.duration, video.end) if time is not None]
    try:
        check_times(asked, source.name, video.start, min(ends, default=None), 1 / fps)
    except InputError:
        source.close()
        raise
    return source


def _answer_all(
    session: StreamSession,
    source: FrameSource,
    asked: Sequence[Question],
    config: RunConfig,
    run: Mapping[str, Any],
    lines: TextIO | None,
) -> None:
    from hermes.cli import report

    console, answers = out(), []
    with _watched(source, config.video.end, lines) as stream:
        for question in _when_due(session, source, stream, asked):
            stream.bar.stop()
            if lines is None:
                report.show_question(console, question, session.now)
            answers.append(_answer(session, question, lines))
            if lines is not None:
                report.write_line(lines, answers[-1], run, source.warnings)
            else:
                report.show_choice(console, question, answers[-1])
            stream.bar.start()
    if lines is None:
        report.show_tables(console, session, answers, run)
    if not config.backbone.checkpoint:
        note(
            "note",
            "the weights are random: answers mean nothing; name a checkpoint with backbone=HUB_ID_OR_FOLDER",
            "bold yellow",
        )


def _when_due(
    session: StreamSession, source: FrameSource, stream: _Watched, asked: Sequence[Question]
) -> Iterator[Question]:
    """Each question once the frames before it are seen; those without a time at the end of the stream."""
    timed = sorted((question for question in asked if question.time is not None), key=lambda q: q.time or 0.0)
    times = [question.time for question in timed if question.time is not None]
    watch = session.watch(stream, times)
    # The stream is not read further than the last question needs: zip asks for the next question first.
    for question, _ in zip(timed, watch, strict=False):
        if stream.end is not None and source.duration is None:
            check_times([question], source.name, 0.0, stream.end, 1 / session.fps)
        yield question
    untimed = [question for question in asked if question.time is None]
    if untimed:
        for _ in watch:
            pass
        session.now = min(session.now, source.duration or session.now)
        yield from untimed


def _answer(session: StreamSession, question: Question, lines: TextIO | None) -> Answer:
    def show(piece: str) -> None:
        # A model may write what a terminal would obey.
        sys.stdout.write(_CONTROL.sub("", piece))
        sys.stdout.flush()

    answer = session.ask(
        question.question, question.choices, correct=question.answer, on_text=show if lines is None else None
    )
    if lines is None:
        show("\n")
    return answer


class _Watched:
    """Frames on their way into the session; `end` is known once there are no more."""

    def __init__(self, source: FrameSource, bar: Progress, total: float | None) -> None:
        self.source = source
        self.bar = bar
        self.task = bar.add_task("watching", total=total)
        self.end: float | None = None

    def __iter__(self) -> Iterator[Frame]:
        time = self.source.sampling.start
        for frame in self.source:
            time = frame.time + 1 / self.source.fps
            self.bar.update(self.task, completed=time - self.source.sampling.start)
            yield frame
        self.end = time


@contextmanager
def _watched(source: FrameSource, end: float | None, lines: TextIO | None) -> Iterator[_Watched]:
    stops = [time for time in (source.duration, end) if time is not None]
    total = min(stops) - source.sampling.start if stops else None
    seen = TextColumn("{task.completed:.0f} s")
    columns = (TextColumn("watching"), BarColumn(), TaskProgressColumn(), seen, TimeRemainingColumn())
    with Progress(*columns, console=err(), transient=True, disable=not _shows_progress(lines)) as bar:
        yield _Watched(source, bar, total)


def _shows_progress(lines: TextIO | None) -> bool:
    return lines is None and sys.stderr.isatty()


@contextmanager
def _nothing() -> Iterator[None]:
    yield

