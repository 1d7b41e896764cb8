"""`hermes ask`: a video, questions at given times, answers from a memory of fixed budget."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from hermes.cli.arguments import split_words
from hermes.cli.completion import complete_settings
from hermes.cli.output import keeps
from hermes.cli.questions import Question, read_questions
from hermes.errors import InputError
from hermes.samples import CLIP, QUESTIONS

SAMPLE = "sample"


@keeps("Answers so far are above; the stream itself is not kept.")
def ask(
    video: Annotated[
        str,
        typer.Argument(
            help="A video file, a folder of images, a .npy array, a URL or a camera. The word 'sample' is "
            "the bundled clip (./sample: a file of that name).",
            metavar="VIDEO",
            autocompletion=complete_settings,
        ),
    ],
    question: Annotated[
        str | None,
        typer.Argument(
            help="Left out with --questions, and with 'sample', which has its own.",
            metavar="QUESTION",
            autocompletion=complete_settings,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, anywhere.", metavar="KEY=VALUE", autocompletion=complete_settings),
    ] = None,
    at: Annotated[
        float | None,
        typer.Option(
            help="Ask at this time, from the frames before it; default: the end.", metavar="SECONDS"
        ),
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option(help="Options of a multiple-choice question: --choices A B C.", metavar="TEXT..."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            help="Questions, one JSON object a line: question, time, choices, answer. The video is encoded "
            "once; they are asked in order of time.",
            metavar="FILE",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a question on stdout, and nothing else.")
    ] = False,
    memory_map: Annotated[
        Path | None,
        typer.Option(
            help="Draw what each layer still holds at the end, and a .csv beside it.", metavar="FILE.png"
        ),
    ] = None,
    probe_result: Annotated[
        Path | None,
        typer.Option(
            help="Keep what probe=NAME saw, of chunks and questions, as a file for torch.load.",
            metavar="FILE.pt",
        ),
    ] = None,
    start: Annotated[
        float | None, typer.Option(help="Begin here; the same as video.start=.", metavar="SECONDS")
    ] = None,
    end: Annotated[
        float | None, typer.Option(help="Stop here; the same as video.end=.", metavar="SECONDS")
    ] = None,
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
    backbone.device=cuda:1          where it runs; default: a GPU, or the CPU
    seed=0                          of random policies and of sampling

    All of them with their values: hermes validate. Names: hermes list. One thing: hermes show NAME.

    Examples:
    \b
    hermes ask video.mp4 "What is he doing?" --at 90 backbone=llava_onevision_7b
    hermes ask video.mp4 "Which fruit?" --choices apple pear policy.budget=6000
    hermes ask video.mp4 --questions questions.jsonl --json policy=fifo
    hermes ask sample --memory-map map.png policy.budget=64
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    words, overrides = split_words([video, question, *(settings or [])])
    for key, value in (("start", start), ("end", end)):
        if value is not None:
            overrides.append(f"video.{key}={value}")
    spec, asked = _what_to_ask(words, at, tuple(choices or ()), questions)

    # From here on torch is needed, which takes seconds to import.
    from hermes.cli.answers import Lines, Page
    from hermes.cli.watching import watch
    from hermes.files import check_file_path
    from hermes.session.memory_map import check_map_path

    if memory_map is not None:
        check_map_path(memory_map)
    if probe_result is not None:
        probe_result = check_file_path(probe_result, "the probe's result")
    writer = Lines() if as_json else Page()
    # With --json nothing but answers reaches stdout, whatever a plug-in prints.
    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        watch(spec, asked, overrides, writer, memory_map, probe_result)


def _what_to_ask(
    words: Sequence[str], at: float | None, choices: tuple[str, ...], file: Path | None
) -> tuple[str, list[Question]]:
    """The video's path, and the questions to it."""
    if not words or not words[0].strip():
        raise InputError(f"no VIDEO is given: name a file, or '{SAMPLE}' for the bundled clip")
    if len(words) > 2:
        extra = ", ".join(map(repr, words[2:]))
        raise InputError(f"unexpected: {extra}. Quote a question of several words; settings are key=value.")
    spec, text = words[0], words[1] if len(words) == 2 else None
    if spec == SAMPLE:
        spec = str(CLIP)
        if text is None and file is None and at is None and not choices:
            file = QUESTIONS
    if file is not None:
        if text is not None or at is not None or choices:
            raise InputError("--questions replaces QUESTION, --at and --choices: each line has its own")
        return spec, read_questions(file)
    if text is None:
        hint = (
            "It comes before --choices, or after '--'."
            if choices
            else "Or give a file of --questions. What looks like a setting, and is none, comes after '--'."
        )
        raise InputError(f"no QUESTION is given. {hint}")
    return spec, [Question(text, at, choices).check()]
