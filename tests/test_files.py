"""Files that are written whole or not at all."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from hermes.errors import InputError
from hermes.files import (
    WriteError,
    append_text,
    check_file_path,
    write_csv_whole,
    write_files_whole,
    write_text_whole,
    write_torch_whole,
    write_whole,
)
from hermes.pages.styles import save_figure
from hermes.video.writing import write_video
from tests.support.faults import counted, killed

ROOT = Path(__file__).parents[1]


def test_a_file_is_made_with_its_folders_and_the_permissions_of_any_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "page.md"
    assert write_text_whole(path, "é\n") == path
    assert path.read_bytes() == "é\n".encode()
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode
    assert os.listdir(path.parent) == ["page.md"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_what_was_there_stays_when_the_writing_is_stopped(tmp_path: Path, stop: type[BaseException]) -> None:
    path = write_text_whole(tmp_path / "page.md", "first")

    def half(aside: Path) -> None:
        assert aside.suffix == ".md"
        aside.write_text("sec")
        raise stop

    with pytest.raises(stop):
        write_whole(path, half)
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["page.md"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "page.md", tmp_path / "folder"):
        with pytest.raises(InputError, match=rf"{path}: cannot be written \("):
            write_text_whole(path, "")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_rows_of_a_table_may_lack_columns(tmp_path: Path) -> None:
    path = write_csv_whole(tmp_path / "table.csv", iter([{"a": 1}, {"b": "x,y", "a": 2}]))
    assert path.read_bytes() == b'a,b\r\n1,\r\n2,"x,y"\r\n'


# -- faults of the machine -----------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda folder: write_text_whole(folder / "deep" / "page.md", "second\n" * 50),
    "table": lambda folder: write_csv_whole(folder / "table.csv", [{"a": 1}, {"b": 2}]),
    "tensors": lambda folder: write_torch_whole(folder / "seen.pt", {"a": 1}),
    "line": lambda folder: append_text(folder / "rows.jsonl", '{"second": 2}\n'),
    "files": lambda folder: write_files_whole(
        folder / "model",
        lambda aside: [(aside / name).write_text("second") for name in ("config.json", "weights", "words")],
        "config.json",
    ),
    "figure": lambda folder: save_figure(Figure(), folder / "plot.png"),
    "video": lambda folder: write_video(folder / "clip.mp4", np.zeros((3, 32, 32, 3), np.uint8), 1),
}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", WRITERS)
def test_wherever_the_disk_fills_the_old_file_or_the_new_is_there(kind: str, tmp_path: Path) -> None:
    write = WRITERS[kind]
    old, new = tmp_path / "old", tmp_path / "new"
    for name in ("deep/page.md", "table.csv", "seen.pt", "rows.jsonl", "plot.png", "clip.mp4", "model/words"):
        write_text_whole(old / name, '{"first": 1}\n')
    write_text_whole(old / "model/mine.txt", "mine")
    shutil.copytree(old, new)
    with counted(new) as count:
        write(new)
    before, after = content(old), content(new)
    assert before != after
    assert count.calls >= 3
    for at in range(1, count.calls + 1):
        place = tmp_path / f"at{at}"
        shutil.copytree(old, place)
        told = None
        with counted(place, at):
            try:
                write(place)
            except WriteError as error:
                told = str(error)
        found = content(place)
        if kind == "files" and told:
            # Without the last of them nobody reads the others.
            assert "model/config.json" not in found
            assert found["model/mine.txt"] == b"mine"
        else:
            assert found == (before if told else after), at
        if told:
            assert str(place) in told
            assert "No space left on device" in told
            assert "what was finished is kept" in told
        # Once it is mended, the same again: nothing is left of what failed.
        shutil.rmtree(place)
        shutil.copytree(old, place)
        write(place)
        assert content(place) == after


@pytest.mark.parametrize("kind", WRITERS)
def test_a_process_that_is_killed_leaves_the_old_file_or_the_new_and_the_next_one_tidies(
    kind: str, tmp_path: Path
) -> None:
    write = WRITERS[kind]
    write_text_whole(tmp_path / "rows.jsonl", "first\n")
    write(tmp_path)
    whole = content(tmp_path)
    with counted(tmp_path) as count:
        write(tmp_path)
    for at in range(1, count.calls + 1, 3):
        child = os.fork()
        if not child:
            with counted(tmp_path, at, killed):
                write(tmp_path)
            os._exit(0)
        os.waitpid(child, 0)
        if kind == "line":
            # Of a line half may be there, which readers drop.
            assert (tmp_path / "rows.jsonl").read_text().startswith("first\n")
        write(tmp_path)
        assert content(tmp_path).keys() == whole.keys()


REFUSING: dict[str, Callable[[Path], Path]] = {
    "a file where a folder should be": lambda folder: folder / "file" / "page.md",
    "a link that leads nowhere": lambda folder: folder / "nowhere" / "page.md",
    "a path of 5 000 characters": lambda folder: Path(f"{folder}/{'/'.join(['a' * 100] * 50)}/page.md"),
    "a name of 300 characters": lambda folder: folder / ("a" * 300),
    "a null character": lambda folder: Path(f"{folder}/a\0b.md"),
    "a folder": lambda folder: folder,
    "a device that is full": lambda folder: Path("/dev/full/page.md"),
}


@pytest.mark.parametrize("case", REFUSING)
@pytest.mark.parametrize("write", [write_text_whole, append_text, check_file_path], ids=lambda f: f.__name__)
def test_a_path_that_cannot_be_is_refused_by_its_name(
    case: str, write: Callable[[Path, str], object], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone" / "far")
    path = REFUSING[case](tmp_path)
    with pytest.raises(InputError) as caught:
        write(path, "text")
    assert str(path).replace("\0", "") in str(caught.value).replace("\0", "")


def test_a_file_larger_than_is_allowed_ends_in_a_named_error(tmp_path: Path) -> None:
    """The kernel itself refuses: what libraries write on their own counts, too."""
    child = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        "from hermes.files import *; from pathlib import Path; at = Path(sys.argv[1]);\n"
        "for write, name in ((write_text_whole, 'a'), (append_text, 'b')):\n"
        "    try:\n"
        "        write(at / name, 'x' * 9000)\n"
        "    except WriteError as error:\n"
        "        sys.stdout.write(f'{error}\\n')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", child, tmp_path], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.count("cannot be written (File too large)") == 2
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]


# What writes, removes or renames; `open` where its mode does.
MUTATES = {
    "write_text", "write_bytes", "mkdir", "savefig", "unlink", "touch", "rename", "symlink_to", "rmdir",
    "makedirs", "savez", "save_file", "save_pretrained", "to_csv", "tofile",
}  # fmt: skip
# Inside what files.py calls with the file aside, or of folders that are thrown away.
KNOWN = {
    "hermes/files.py": None,
    "hermes/pages/styles.py": {"savefig"},
    "hermes/backbone/checkpoint.py": {"save_pretrained"},
    "hermes/backbone/loading.py": {"save_pretrained"},
    "hermes/training/model.py": {"save_pretrained"},
    "hermes/data/wanderer/benchmark.py": {"rename"},
    "hermes/data/annotated.py": {"rename"},
    "hermes/memory/storage.py": {"open"},
    # Half a line at the end is cut off.
    "hermes/evaluation/results/journal.py": {"open"},
    # Into memory.
    "hermes/session/memory_map.py": {"savefig"},
    "analysis/study.py": {"savez"},
}


def test_everything_is_written_through_one_place() -> None:
    found: dict[str, set[str]] = {}
    for path in (
        p for room in ("hermes", "policies", "backbones", "analysis") for p in (ROOT / room).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            modes = [
                arg.value
                for arg in (*node.args[:2], *(keyword.value for keyword in node.keywords))
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            ]
            owner = getattr(getattr(node.func, "value", None), "id", "")
            writes = name in MUTATES or (name == "save" and owner == "torch")
            writes |= name == "open" and any(set(mode) & set("wax+") and len(mode) < 4 for mode in modes)
            # Of PyAV, beside `with`: into the file aside.
            if writes and owner != "av":
                found.setdefault(str(path.relative_to(ROOT)), set()).add(name)
    others = {
        file: names - (KNOWN.get(file) or set())
        for file, names in found.items()
        if file != "hermes/files.py" and names - (KNOWN.get(file) or set())
    }
    assert not others
