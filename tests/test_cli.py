"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from hermes import __version__
from hermes.cli import main
from hermes.cli.arguments import split_settings, spread_choices
from hermes.cli.ask import ask
from hermes.cli.doctor import _reachable
from hermes.cli.questions import Question, read_questions
from hermes.config import available, to_dict
from hermes.environment import attention_backend, environment
from hermes.errors import InputError
from hermes.registry import registry
from hermes.samples import CLIP, QUESTIONS
from hermes.session import StreamSession
from hermes.settings import run_config
from hermes.video import write_video

BUDGET = 64
FAST = (f"policy.budget={BUDGET}", "generation.max_new_tokens=4")
FIELDS = {
    *("question", "time_s", "answer", "choice", "probabilities", "correct", "ttft_ms", "tpot_ms"),
    *("frames_seen", "tokens_per_layer", "memory_bytes", "peak_memory_bytes"),
    *("policy", "backbone", "budget", "seed", "versions"),
}


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def hermes(*argv: str) -> Result:
    """Run a command line in this process."""
    out, err, path = io.StringIO(), io.StringIO(), list(sys.path)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(argv)
    finally:
        sys.path[:] = path
    return Result(code, out.getvalue(), err.getvalue())


def process(*argv: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own, in the user's folder."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", **variables}
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def sample() -> Result:
    """The bundled clip with its own questions."""
    return hermes("ask", "sample", "--json", *FAST)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The same for people, with a memory map."""
    path = tmp_path_factory.mktemp("page") / "runs" / "map.png"
    return hermes("ask", "sample", "--memory-map", str(path), "video.fps=2", *FAST), path


# -- answers -----------------------------------------------------------------------------------------------


@pytest.mark.model
def test_json_has_one_object_a_question(sample: Result) -> None:
    assert sample.code == 0
    asked = read_questions(QUESTIONS)
    assert [record["question"] for record in sample.records] == [question.question for question in asked]
    for record, question in zip(sample.records, asked, strict=True):
        assert set(record) >= FIELDS
        assert record["time_s"] == question.time
        assert record["frames_seen"] == math.ceil((question.time or 0) * 0.5)
        assert max(record["tokens_per_layer"]) <= BUDGET + min(record["tokens_per_layer"])
        assert len(record["tokens_per_layer"]) == 10
        assert isinstance(record["correct"], bool)
        assert record["ttft_ms"] > 0
        assert record["memory_bytes"] > 0
        assert record["peak_memory_bytes"] > 0
        assert (record["choice"] is None) == (not question.choices)
        if question.choices:
            assert sum(record["probabilities"].values()) == pytest.approx(1)
            assert record["choice"] == max(record["probabilities"], key=record["probabilities"].__getitem__)
            right = question.choices["ABCD".index(record["choice"])] == question.answer
            assert record["correct"] == right
        known = {"policy": "hermes", "backbone": "tiny_llava_onevision", "budget": BUDGET, "seed": 0}
        assert {key: record[key] for key in known} == known
        assert record["versions"]["torch"]
        assert record["warnings"] == []


@pytest.mark.model
def test_last_memory_is_within_budget_and_prefix(sample: Result) -> None:
    shortest = hermes("ask", "sample", "q", "--json", "--at", "0.1", "video.fps=1", *FAST).records[0]
    prefix = shortest["tokens_per_layer"][0] - 9  # one frame
    assert sample.records[-1]["tokens_per_layer"] == [prefix + BUDGET] * 10


@pytest.mark.model
def test_same_seed_same_answers(sample: Result) -> None:
    again = hermes("ask", "sample", "--json", *FAST)
    assert [r["answer"] for r in again.records] == [r["answer"] for r in sample.records]
    assert [r["config_hash"] for r in again.records] == [r["config_hash"] for r in sample.records]


@pytest.mark.model
def test_encoding_once_sees_what_a_question_alone_would_see(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    lines = [
        {"question": "Late?", "time": 30},
        {"question": "At the end?"},
        {"question": "Early?", "time": 9.5},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    fast = ("--json", "policy=fifo", "video.fps=1", *FAST)
    together = hermes("ask", "sample", "--questions", str(file), *fast).records
    assert [record["question"] for record in together] == ["Early?", "Late?", "At the end?"]
    assert [record["time_s"] for record in together] == [9.5, 30, 48]
    assert [record["frames_seen"] for record in together] == [10, 30, 48]
    alone = [
        hermes("ask", "sample", "Early?", "--at", "9.5", *fast).records[0],
        hermes("ask", str(CLIP), "Late?", "--at", "30", *fast).records[0],
        hermes("ask", "sample", "At the end?", *fast).records[0],
    ]
    assert [record["answer"] for record in together] == [record["answer"] for record in alone]


@pytest.mark.model
def test_page_for_people(page: tuple[Result, Path]) -> None:
    result, path = page
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "\x1b" not in result.err
    for question in read_questions(QUESTIONS):
        assert f"{question.time:g} s  {question.question}" in result.out
    assert re.search(r"sensory +0 +\d+ = \d+ prefix \+ 64 video", result.out)
    assert re.search(r"long_term +7-9 ", result.out)
    for word in ("TTFT", "TPOT", "encoding", "compression", "peak", "of 6 right", f"memory map: {path}"):
        assert word in result.out
    assert "the weights are random: answers mean nothing; name a checkpoint with backbone=" in result.err
    assert path.stat().st_size > 10_000
    assert path.with_suffix(".csv").read_text().startswith("layer,frame,time_s,tokens,summaries\n")


@pytest.mark.model
def test_choices_in_both_forms() -> None:
    fast = ("--json", "--at", "6", *FAST)
    spread = hermes("ask", "sample", "Which?", "--choices", "red", "blue", *fast).records[0]
    each = hermes("ask", *FAST, "sample", "--choices", "red", "Which?", "--choices=blue", "--json", "--at=6")
    assert list(spread["probabilities"]) == ["A", "B"]
    assert each.code == 2
    assert "no QUESTION" in each.err
    repeated = hermes("ask", "sample", "Which?", "--choices=red", *fast, "--choices=blue").records[0]
    assert repeated["probabilities"] == spread["probabilities"]


@pytest.mark.model
def test_start_and_end() -> None:
    record = hermes(
        "ask", "sample", "q", "--start", "10", "--end", "20", "--json", "video.fps=1", *FAST
    ).records[0]
    assert (record["time_s"], record["frames_seen"]) == (20, 10)


@pytest.mark.model
def test_configurations_are_called_by_their_own_name() -> None:
    for name in ("fifo", "fifo_frame"):
        assert hermes("ask", "sample", "q", "--json", f"policy={name}", *FAST).records[0]["policy"] == name


@pytest.mark.model
def test_what_a_plug_in_prints_stays_out_of_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    flush = StreamSession.flush

    def chatty(self: StreamSession) -> None:
        sys.stdout.write("hello\n")
        flush(self)

    monkeypatch.setattr(StreamSession, "flush", chatty)
    result = hermes("ask", "sample", "q", "--json", *FAST)
    assert len(result.records) == 1
    assert "hello" in result.err


@pytest.mark.model
def test_truncated_video_is_answered_with_a_warning(tmp_path: Path) -> None:
    data = CLIP.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    result = hermes("ask", str(cut), "q", "--json", *FAST)
    assert result.code == 0
    (record,) = result.records
    lost = re.search(r"warning: .*the last ([\d.]+) s of 48\.0 s are lost", result.err)
    assert lost is not None
    assert record["warnings"]
    assert "are lost" in record["warnings"][0]
    assert record["time_s"] == pytest.approx(48 - float(lost[1]), abs=2)  # one sample
    # A time that the file declares, and that is not there any more.
    late = hermes("ask", str(cut), "q", "--at", "45", "--json", *FAST)
    assert late.code == 0
    assert late.records[0]["time_s"] == 45


# -- bad input ---------------------------------------------------------------------------------------------


def _audio(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 2048), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def _checkpoint(folder: Path, config: dict[str, Any]) -> Path:
    return _file(folder / "config.json", json.dumps(config)).parent


BAD: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "missing file": (lambda t: [str(t / "no.mp4"), "q"], "no.mp4: no such file"),
    "folder without images": (lambda t: [str(t), "q"], "a folder without images"),
    "zero-byte file": (lambda t: [str(_file(t / "zero.mp4", "")), "q"], r"the file is empty \(0 bytes\)"),
    "audio only": (lambda t: [str(_audio(t / "sound.mp4")), "q"], "has no video stream"),
    "text file": (lambda t: [str(_file(t / "notes.mp4", "hello\n" * 99)), "q"], "not a video"),
    "time past the end": (lambda t: ["sample", "q", "--at", "51"], r"51 s is past the end \(48.00 s\)"),
    "time past --end": (lambda t: ["sample", "q", "--at", "25", "--end", "20"], "25 s is past the end"),
    "time before any frame": (lambda t: ["sample", "q", "--at", "0"], "no frame is seen by then"),
    "empty question": (lambda t: ["sample", "  "], "the question is empty"),
    "no question": (lambda t: ["clip.mp4"], "no QUESTION is given"),
    "no video": (lambda t: ["policy=fifo"], "no VIDEO is given"),
    "three words": (lambda t: ["sample", "what", "now"], "unexpected: 'now'. Quote a question"),
    "one choice": (lambda t: ["sample", "q", "--choices", "a"], "needed: from 2 to 26"),
    "choices without any": (lambda t: ["sample", "q", "--choices", "--at", "3"], "--choices"),
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
        lambda t: ["sample", "q", "policy.budget=5"],
        "policy.budget: got 5; allowed: at least 9",
    ),
    "uncovered layers": (
        lambda t: ["sample", "q", "policy.tiers.working.share=0.2"],
        "policy.tiers: .*sum to 0.6",
    ),
    "text-only checkpoint": (
        lambda t: ["sample", "q", f"backbone={_checkpoint(t / 'text', {'model_type': 'qwen2'})}"],
        "text-only checkpoint",
    ),
    "unsupported family": (
        lambda t: [
            "sample",
            "q",
            f"backbone={_checkpoint(t / 'x', {'model_type': 'x', 'vision_config': {}})}",
        ],
        "which no family serves.*To add one",
    ),
    "hub id without a network": (lambda t: ["sample", "q", "backbone=no/such-model"], "cannot be reached"),
    "unknown backbone": (
        lambda t: ["sample", "q", "backbone=tiny_lava"],
        "backbone: .*Did you mean 'tiny_llava",
    ),
    "start past the end": (lambda t: ["sample", "q", "--start", "60"], "past the end"),
    "map of an unknown kind": (lambda t: ["sample", "q", "--memory-map", "map.bmp"], ".png, .pdf, .svg"),
    "questions missing": (lambda t: ["sample", "--questions", str(t / "q.jsonl")], "cannot be read"),
    "questions empty": (
        lambda t: ["sample", "--questions", str(_file(t / "q.jsonl", "\n"))],
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
def test_time_past_the_end_of_a_stream_of_unknown_length(tmp_path: Path) -> None:
    frames = [np.full((48, 48, 3), 9 * i, np.uint8) for i in range(24)]
    path = tmp_path / "clip.mkv"
    write_video(path, frames, 2)
    raw = tmp_path / "raw.h264"
    import av

    with av.open(str(path)) as source, av.open(str(raw), "w", format="h264") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    from hermes.video import open_source

    with open_source(raw) as opened:
        assert opened.duration is None
        end = len(list(opened))
    ok = hermes("ask", str(raw), "q", "--at", str(end), "--json", "video.fps=1", *FAST)
    assert ok.code == 0
    assert ok.records[0]["time_s"] == end
    result = hermes("ask", str(raw), "q", "--at", "500", "--json", "video.fps=1", *FAST)
    assert result.code == 2
    assert "500 s is past the end" in result.err
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
    assert result.err.strip() == "interrupted: stopped before the end"
    assert not list(tmp_path.iterdir())


# -- arguments ---------------------------------------------------------------------------------------------


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
        ("--choices", "--choices"),
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
    path = _file(tmp_path / "q.jsonl", f'{{"question": "q"}}\n{line}\n')
    with pytest.raises(InputError, match=message):
        read_questions(path)


def test_questions_of_a_file(tmp_path: Path) -> None:
    lines = '{"question": "a", "time": null, "choices": null}\n\n{"question": "b", "choices": ["x", "y"], "answer": "(B)"}\n'
    assert read_questions(_file(tmp_path / "q.jsonl", lines)) == [
        Question("a"),
        Question("b", choices=("x", "y"), answer="(B)"),
    ]


# -- help, catalogue, doctor -------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["--help"], ["ask", "--help"], ["--version"], ["asc"]])
def test_light_commands_do_not_import_torch(argv: list[str], tmp_path: Path) -> None:
    code = f"import sys; from hermes.cli import main; main({argv!r}); sys.exit('torch' in sys.modules)"
    result = process(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_help_names_commands_and_main_settings() -> None:
    assert all(name in hermes("--help").out for name in ("ask", "list", "show", "validate", "doctor"))
    text = hermes("ask", "--help").out
    for key in ("backbone=NAME", "policy.budget=4000", "--choices", "--memory-map", "hermes ask sample"):
        assert key in text


def test_settings_in_the_help_are_real() -> None:
    named = re.findall(r"^    ([\w.]+)=(\S+) {2,}", ask.__doc__ or "", flags=re.MULTILINE)
    assert len(named) == 10
    for key, value in named:
        if value == "NAME":
            continue
        more = ["policy.tiers.working.share=0.5"] if "share" in key else []
        assert run_config([f"{key}={value}", *more])
        assert yaml.safe_load(value) == _at(to_dict(run_config([f"{key}={value}", *more])), key)


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_version() -> None:
    assert hermes("--version") == Result(0, f"hermes {__version__}\n", "")


def test_no_command_shows_help() -> None:
    result = hermes()
    assert result.code == 2
    assert "Usage: hermes" in result.out
    assert result.err == ""


def test_unknown_command() -> None:
    result = hermes("lst")
    assert result.code == 2
    assert "Did you mean 'list'?" in result.err


def test_list_has_everything_registered() -> None:
    text = hermes("list").out
    for kind in ("policy", "backbone", "scorer", "smoother", "selector", "merger", "reindexer", "probe"):
        assert all(re.search(rf"^{name} ", text, re.MULTILINE) for name in registry(kind).names()), kind
    assert all(name in text for name in [*available("policy"), *available("backbone")])
    hermes_facts = text[text.index("\nhermes ") :].splitlines()[2]
    assert hermes_facts.strip() == (
        "bounded; budget in tokens; observes attention; compress; arXiv 2601.14724"
    )


@pytest.mark.parametrize("kind", ["policies", "policy", "scorers", "parts", "callbacks"])
def test_list_of_one_kind(kind: str) -> None:
    text = hermes("list", kind).out
    assert ("recency" in text) == (kind in ("scorers", "parts"))
    assert ("streaming_llm" in text) == (kind in ("policies", "policy"))


def test_list_of_an_unknown_kind() -> None:
    result = hermes("list", "polices")
    assert result.code == 2
    assert "Did you mean 'policies'?" in result.err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["hermes"],
            ["arXiv 2601.14724, Sec. 3", "policy.tiers.NAME.share", "a number from 0 to 1", "name: hermes"],
        ),
        (["random"], ["policies.random.Random", "hermes.parts.scorers.RandomScore"]),
        (["random", "--kind", "scorer"], ["hermes.parts.scorers.RandomScore", "redraw: false"]),
        (["llava_onevision_7b"], ["checkpoint: llava-hf/llava-onevision-qwen2-7b-ov-hf", "dtype: auto"]),
        (["qwen3_vl"], ["M-RoPE", "backbone.max_pixels"]),
        (["policies.fifo.Fifo"], ["newest", "policy.align"]),
        (["fifo_frame"], ["policy configuration", "align: frame"]),
    ],
)
def test_show(argv: list[str], expected: list[str]) -> None:
    result = hermes("show", *argv)
    assert result.code == 0
    for text in expected:
        assert text in result.out
    assert ("policies.random" in result.out) == (argv == ["random"])


@pytest.mark.parametrize("argv", [["hrmes"], ["random", "--kind", "bakbone"], ["no.such.Thing"]])
def test_show_of_nothing(argv: list[str]) -> None:
    result = hermes("show", *argv)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")


def test_validate_prints_everything_resolved() -> None:
    result = hermes("validate", "policy=fifo", "policy.budget=7")
    assert result.code == 0
    assert yaml.safe_load(result.out) == to_dict(run_config(["policy=fifo", "policy.budget=7"]))
    assert hermes("validate", "policy.tiers.sensory.shar=1").err.startswith(
        "error: policy.tiers.sensory.shar"
    )
    assert hermes("validate", "fifo").code == 2


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = hermes("doctor")
    assert result.code == 0
    for word in ("torch", "transformers", "attention", "h264", "hub cache", "offline"):
        assert word in result.out
    assert json.loads(hermes("doctor", "--json").out) == environment()


def test_doctor_does_not_wait_for_a_hub_that_is_not_there() -> None:
    assert not _reachable("127.0.0.1", 9)


def test_environment_is_plain() -> None:
    about = environment("cpu")
    assert json.loads(json.dumps(about)) == about
    assert about["device"] == "cpu"
    assert about["versions"]["hermes-stream"]
    import torch

    assert "math" in attention_backend(torch.device("cuda"))


# -- the user's own folder and packages --------------------------------------------------------------------

POLICY = """
from dataclasses import dataclass
from policies.fifo import Fifo

@dataclass
class Mine(Fifo):
    "A policy of my own."
"""
SCRIPT = str(Path(sys.executable).parent / "hermes")


@pytest.mark.parametrize("command", [[sys.executable, "-m", "hermes"], [SCRIPT]], ids=["module", "script"])
def test_current_folder_is_searched_last(command: list[str], tmp_path: Path) -> None:
    for name in ("policies", "analysis", "backbones", "typer", "rich"):
        _file(tmp_path / name / "__init__.py", "raise RuntimeError('shadowed')")
    (tmp_path / "hermes" / "data").mkdir(parents=True)
    _file(tmp_path / "mine.py", POLICY)
    result = process(*command, "validate", "policy=mine.Mine", "policy.budget=5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert yaml.safe_load(result.stdout)["policy"]["name"] == "mine.Mine"


def test_commands_of_other_packages(tmp_path: Path) -> None:
    package = tmp_path / "site"
    info = package / "greetings-1.0.dist-info"
    info.mkdir(parents=True)
    _file(info / "METADATA", "Metadata-Version: 2.1\nName: greetings\nVersion: 1.0\n")
    _file(info / "entry_points.txt", "[hermes.commands]\ngreet = greetings:greet\nbroken = greetings.no:no\n")
    code = (
        'import typer\n\n\ndef greet(name: str) -> None:\n    "Say hello."\n    typer.echo(f"hello {name}")\n'
    )
    _file(package / "greetings.py", code)
    run = [sys.executable, "-m", "hermes"]
    assert process(*run, "greet", "you", cwd=tmp_path, PYTHONPATH=str(package)).stdout == "hello you\n"
    text = process(*run, "--help", cwd=tmp_path, PYTHONPATH=str(package))
    assert "Say hello." in text.stdout
    assert "Cannot be used" in text.stdout
    assert text.returncode == 0
    broken = process(*run, "broken", cwd=tmp_path, PYTHONPATH=str(package))
    assert broken.returncode == 2
    assert "greetings.no" in broken.stderr


def test_reader_that_goes_away(tmp_path: Path) -> None:
    code = "import os, sys; os.close(0); from hermes.cli import main; sys.exit(main(['list', 'scorers']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
