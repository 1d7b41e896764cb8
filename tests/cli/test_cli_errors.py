"""Bad input, faults and interruptions: exit codes, messages, and nothing half-written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes.cli.arguments import split_settings, spread_choices
from hermes.cli.questions import Question, read_questions
from hermes.errors import InputError
from hermes.samples import QUESTIONS
from hermes.session.session import StreamSession
from hermes.video import FrameSource, open_source
from tests.support.command_line import FAST, hermes, write


def _audio(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 2048), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    return write(folder / "config.json", json.dumps(config)).parent


BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "missing file": (lambda t: [str(t / "no.mp4"), "q"], "no.mp4: no such file"),
    "folder without images": (lambda t: [str(t), "q"], "a folder without images"),
    "zero-byte file": (lambda t: [str(write(t / "zero.mp4", "")), "q"], r"the file is empty \(0 bytes\)"),
    "audio only": (lambda t: [str(_audio(t / "sound.mp4")), "q"], "has no video stream"),
    "text file": (lambda t: [str(write(t / "notes.mp4", "hello\n" * 99)), "q"], "not a video"),
    "time past the end": (lambda t: ["sample", "q", "--at", "51"], r"51 s is past the end \(48.00 s\)"),
    "time past --end": (lambda t: ["sample", "q", "--at", "25", "--end", "20"], "25 s is past the end"),
    "time before any frame": (lambda t: ["sample", "q", "--at", "0"], "no frame is seen by then"),
    "empty question": (lambda t: ["sample", "  "], "the question is empty"),
    "no question": (lambda t: ["clip.mp4"], "no QUESTION is given"),
    "no video": (lambda t: ["policy=fifo"], "no VIDEO is given"),
    "three words": (lambda t: ["sample", "what", "now"], "unexpected: 'now'. Quote a question"),
    "one choice": (lambda t: ["sample", "q", "--choices", "a"], "needed: from 2 to 26"),
    "choices without any": (lambda t: ["sample", "q", "--choices", "--at", "3"], "--choices needs"),
    "unknown policy": (
        lambda t: ["sample", "q", "policy=hermse"],
        "policy: got 'hermse'.*Did you mean 'hermes'",
    ),
    "unknown setting": (lambda t: ["sample", "q", "policy.budge=3"], "policy.budge: .*Did you mean 'budget'"),
    "unknown group": (lambda t: ["sample", "q", "polcy=fifo"], "polcy: .*Did you mean 'policy'"),
    "wrong type": (
        lambda t: ["sample", "q", "policy.budget=many"],
        "policy.budget: got 'many'; allowed: a whole",
    ),
    "unknown option": (lambda t: ["sample", "q", "--jsn"], "--jsn"),
    "no number": (lambda t: ["sample", "q", "--at", "soon"], "--at"),
    "budget under a frame": (
        lambda t: ["sample", "q", "policy.budget=3"],
        "policy.budget: got 3; allowed: at least 4",
    ),
    "uncovered layers": (
        lambda t: ["sample", "q", "policy.tiers.working.share=0.2"],
        "policy.tiers: .*sum to 0.6",
    ),
    "text-only checkpoint": (
        lambda t: ["sample", "q", f"backbone={_checkpoint(t / 'text', {'model_type': 'qwen2'})}"],
        "cannot be loaded: .*no file named",
    ),
    "unsupported family": (
        lambda t: [
            "sample",
            "q",
            f"backbone={_checkpoint(t / 'x', {'model_type': 'x', 'vision_config': {}})}",
        ],
        "does not know as a model that watches or reads.*To add one",
    ),
    "hub id without a network": (lambda t: ["sample", "q", "backbone=no/such-model"], "cannot be reached"),
    "unknown backbone": (
        lambda t: ["sample", "q", "backbone=tiny_lava"],
        "backbone: .*Did you mean 'tiny_llava",
    ),
    "start past the end": (lambda t: ["sample", "q", "--start", "60"], "past the end"),
    "map of an unknown kind": (lambda t: ["sample", "q", "--memory-map", "map.bmp"], ".png, .pdf, .svg"),
    "probe's result without a probe": (
        lambda t: ["sample", "q", "--probe-result", str(t / "seen.pt")],
        "--probe-result: nothing watches; name a probe",
    ),
    "probe's result in a folder": (
        lambda t: ["sample", "q", "probe=attention_mass", "--probe-result", str(t)],
        "is a folder; the probe's result needs a file name",
    ),
    "questions missing": (lambda t: ["sample", "--questions", str(t / "q.jsonl")], "cannot be read"),
    "questions empty": (
        lambda t: ["sample", "--questions", str(write(t / "q.jsonl", "\n"))],
        "holds no question",
    ),
    "questions and a question": (
        lambda t: ["sample", "q", "--questions", str(QUESTIONS)],
        "replaces QUESTION",
    ),
}


@pytest.mark.model
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    arguments, message = BAD[name]
    argv = arguments(tmp_path)
    target = tmp_path / "runs" / "map.png"
    map_option = [] if "--memory-map" in argv else ["--memory-map", str(target)]
    result = hermes("ask", *argv, *map_option)
    assert result.code == 2
    assert re.search(message, result.err)
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    assert "Traceback" not in result.err
    assert result.out == ""
    assert not target.parent.exists()


@pytest.mark.model
def test_time_past_the_end_of_a_stream_of_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    def unmeasured(*args: Any, **options: Any) -> FrameSource:
        source = open_source(*args, **options)
        source.duration = None
        return source

    monkeypatch.setattr("hermes.cli.watching.open_source", unmeasured)
    fast = ("--json", "video.fps=1", *FAST)
    assert hermes("ask", "sample", "q", "--at", "48.5", *fast).records[0]["time_s"] == 48.5
    assert hermes("ask", "sample", "q", *fast).records[0]["time_s"] == 48
    result = hermes("ask", "sample", "q", "--at", "500", *fast)
    assert result.code == 2
    assert "500 s is past the end (48.00 s)" in result.err
    assert result.out == ""


@pytest.mark.model
def test_a_question_may_come_one_sample_after_the_end() -> None:
    assert hermes("ask", "sample", "q", "--at", "49.9", "--json", *FAST).records[0]["time_s"] == 49.9


@pytest.mark.model
def test_faults_inside_exit_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("hermes.cli.watching.session_from", fail)
    result = hermes("ask", "sample", "q")
    assert result.code == 1
    assert "RuntimeError: a fault" in result.err
    assert "Traceback" not in result.err
    result = hermes("ask", "sample", "q", "--debug")
    assert result.code == 1
    assert "Traceback" in result.err
    assert "in fail" in result.err


@pytest.mark.model
def test_interruption_keeps_the_answers_so_far(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ask_now, asked = StreamSession.ask, []

    def interrupted(self: StreamSession, question: str, *args: Any, **options: Any) -> Any:
        asked.append(question)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask_now(self, question, *args, **options)

    monkeypatch.setattr(StreamSession, "ask", interrupted)
    result = hermes("ask", "sample", "--json", "--memory-map", str(tmp_path / "map.png"), *FAST)
    assert result.code == 130
    assert len(result.records) == 2
    assert "Answers so far are above" in result.err
    assert "To go on: hermes ask sample" in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--choices a b c", "--choices=a --choices=b --choices=c"),
        ("v q --choices a b policy=fifo", "v q --choices=a --choices=b policy=fifo"),
        ("--choices a b polcy=fifo", "--choices=a --choices=b polcy=fifo"),
        ("--choices x=3 x=4", "--choices=x=3 --choices=x=4"),
        ("--choices a b ~policy.tiers.sensory", "--choices=a --choices=b ~policy.tiers.sensory"),
        ("--choices -1 0 --json", "--choices=-1 --choices=0 --json"),
        ("--choices a b -- v q --choices", "--choices=a --choices=b -- v q --choices"),
    ],
)
def test_choices_are_spread(given: str, expected: str) -> None:
    assert spread_choices(given.split()) == expected.split()


def test_settings_stand_anywhere() -> None:
    words = ["policy=fifo", "clip.mp4", "policy.budget=3", "Is x = 3?", "rtsp://host/a?x=1", "~a.b"]
    assert split_settings(words) == (
        ["clip.mp4", "Is x = 3?", "rtsp://host/a?x=1"],
        ["policy=fifo", "policy.budget=3", "~a.b"],
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("what", "2: not JSON"),
        ("[1]", "2: a list; needed: a JSON object"),
        ('{"time": 1}', "2: the field 'question' is missing"),
        ('{"question": ""}', "2: the question is empty"),
        ('{"question": "q", "tme": 1}', "2: there is no field 'tme'.*Did you mean 'time'"),
        ('{"question": "q", "time": "1"}', '2: time is "1"; needed: seconds'),
        ('{"question": "q", "time": true}', "2: time is true"),
        ('{"question": "q", "time": -1}', "2: the question's time is -1"),
        ('{"question": "q", "time": NaN}', "2: the question's time is nan"),
        ('{"question": "q", "choices": "ab"}', "2: choices is"),
        ('{"question": "q", "choices": [1, 2]}', "2: choices is"),
        ('{"question": "q", "choices": ["a", " "]}', "2: a choice is empty"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "c"}', "2: the answer 'c' is none"),
    ],
)
def test_lines_that_are_no_question(line: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", f'{{"question": "q"}}\n{line}\n')
    with pytest.raises(InputError, match=message):
        read_questions(path)


def test_questions_of_awrite(tmp_path: Path) -> None:
    empty, full = (
        '{"question": "a", "time": null}',
        '{"question": "b", "choices": ["x", "y"], "answer": "(B)"}',
    )
    lines = f"{empty}\n\n{full}\n"
    assert read_questions(write(tmp_path / "q.jsonl", lines)) == [
        Question("a"),
        Question("b", choices=("x", "y"), answer="(B)"),
    ]
