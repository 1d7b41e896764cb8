"""`hermes ask` of what can be read once: pipes, standard input; questions whose time is known at the end."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from hermes.backbone import save_checkpoint
from hermes.video import write_video
from tests.support.command_line import FAST, hermes, process
from tests.support.families import tiny
from tests.support.video_files import numbered

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "folder"
    save_checkpoint(tiny("qwen3_vl"), folder)
    return folder


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe that is written to once; opened again, it would wait for ever."""
    write_video(tmp_path / "a.ts", numbered(60), 10)
    os.mkfifo(tmp_path / "fifo")

    def send() -> None:
        with suppress(BrokenPipeError):
            (tmp_path / "fifo").write_bytes((tmp_path / "a.ts").read_bytes())

    threading.Thread(target=send, daemon=True).start()
    return tmp_path / "fifo"


QUICK = ("policy.budget=64", "generation.max_new_tokens=2", "--json")


def test_a_pipe_is_opened_once_with_a_folder_for_a_backbone(fifo: Path, checkpoint: Path) -> None:
    result = hermes("ask", str(fifo), "q", "--at", "4", f"backbone={checkpoint}", *QUICK)
    assert result.code == 0, result.err
    (record,) = result.records
    assert record["time_s"] == 4
    assert record["frames_seen"] == 8  # two a second, as the family watches


def test_a_question_after_the_end_of_a_pipe_is_refused_at_its_end(fifo: Path) -> None:
    result = hermes("ask", str(fifo), "q", "--at", "60", "video.fps=1", *FAST)
    assert result.code == 2
    assert "60 s is past the end (6.00 s)" in result.err


@pytest.mark.thorough
def test_standard_input(tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", numbered(30), 10)
    code = "import sys; from hermes.cli import main; sys.exit(main())"
    command = f"cat a.ts | {sys.executable} -c '{code}' ask /dev/stdin q --at 2 {' '.join(FAST)} --json"
    done = process("bash", "-c", command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"time_s": 2' in done.stdout


def test_options_on_the_command_line(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(30), 10)
    options = ("video.options.probesize=100000", "video.options.rtsp_transport=tcp", "video.fps=1")
    assert hermes("ask", str(tmp_path / "a.mp4"), "q", *options, *FAST, "--json").records[0]["time_s"] == 3
    result = hermes("ask", str(tmp_path / "a.mp4"), "q", "video.max_pixels_decoded=100", *FAST)
    assert result.code == 2
    assert "video.max_pixels_decoded=100" in result.err


def test_a_file_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "12:30 meeting.mp4", numbered(30), 10)
    result = hermes("ask", "12:30 meeting.mp4", "q", "video.fps=1", *FAST, "--json")
    assert result.records[0]["time_s"] == 3
