"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hermes.errors import InputError
from hermes.files import write_csv_whole, write_text_whole, write_whole


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
