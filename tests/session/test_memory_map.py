"""The memory map: what it counts, and what is drawn."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from hermes.errors import InputError
from hermes.session import memory_map as module
from hermes.session.memory_map import check_map_path, held_frames, memory_figure, memory_map, session_map
from hermes.session.opening import open_session
from hermes.session.session import StreamSession
from hermes.tokens import TokenKind
from hermes.video import open_source

pytestmark = pytest.mark.model

SECONDS = 40


def watched(policy: str, *overrides: str, backbone: str = "tiny_llava_onevision") -> StreamSession:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (SECONDS, 42, 42, 3), np.uint8)
    session = open_session(backbone, policy, 64, overrides=["video.fps=1", *overrides])
    session.feed(open_source(frames, fps=1.0))
    session.flush()
    return session


@pytest.fixture(scope="module")
def hermes() -> StreamSession:
    return watched("hermes")


def cells_of(figure: Figure) -> np.ma.MaskedArray:
    (mesh,) = [
        c for c in figure.axes[0].collections if c.get_array() is not None and c.get_cmap().name == "kept"
    ]
    return mesh.get_array()


def test_counts_are_those_of_the_memory(hermes: StreamSession) -> None:
    cells = held_frames(hermes.memory)
    for layer in hermes.memory:
        mine = [cell for cell in cells if cell.layer == layer.index]
        kinds = layer.video.kind[0, 0]
        assert sum(cell.summaries for cell in mine) == int((kinds == int(TokenKind.SUMMARY)).sum())
        frames = layer.video.frame[0, 0][kinds == int(TokenKind.VISUAL)].tolist()
        assert {cell.frame: cell.tokens for cell in mine if cell.tokens} == Counter(frames)
        assert all(cell.time_s == cell.frame for cell in mine if cell.tokens)
        assert [cell.time_s for cell in mine] == sorted(cell.time_s for cell in mine)


def test_heads_are_averaged() -> None:
    memory = watched("hermes", "policy.selector.rank=kv_head").memory
    assert max(layer.rows for layer in memory) == 2
    cells = held_frames(memory)
    for layer in memory:
        held = sum(cell.tokens + cell.summaries for cell in cells if cell.layer == layer.index)
        assert held == pytest.approx(layer.video_length)
    assert any(cell.tokens % 1 for cell in cells)


def test_picture_and_table(hermes: StreamSession, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "map.png"
    table = session_map(hermes, path, title="hermes")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert table == path.with_suffix(".csv")
    assert sorted(item.name for item in path.parent.iterdir()) == ["map.csv", "map.png"]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["layer", "frame", "time_s", "tokens", "summaries"]
    written = [tuple(float(row[key]) for key in rows[0]) for row in rows]
    held = [(c.layer, c.frame, c.time_s, c.tokens, c.summaries) for c in held_frames(hermes.memory)]
    np.testing.assert_allclose(written, held, rtol=1e-5)


def test_what_is_drawn(hermes: StreamSession) -> None:
    tiers = hermes.policy.boundaries(10)  # type: ignore[attr-defined]
    figure = memory_figure(hermes.memory, duration=SECONDS, tiers=tiers, title="a title")
    axes, bar = figure.axes
    grid = cells_of(figure)
    assert grid.shape == (10, SECONDS)
    # A cell without tokens has no colour of the scale.
    for cell in held_frames(hermes.memory):
        if cell.tokens:
            assert grid[cell.layer, cell.frame] == cell.tokens
    kept = {(cell.layer, cell.frame) for cell in held_frames(hermes.memory) if cell.tokens}
    assert {tuple(index) for index in np.argwhere(~np.ma.getmaskarray(grid))} == kept
    assert axes.get_xlabel() == "video time (s)"
    assert axes.get_ylabel() == "layer"
    assert bar.get_ylabel() == "tokens kept per frame"
    assert axes.get_xlim() == (0, SECONDS)
    assert axes.get_ylim() == (9.5, -0.5)
    assert {text.get_text() for text in axes.texts} == {"sensory", "working", "long_term"}
    assert sorted(line.get_ydata()[0] for line in axes.lines) == [0.5, 6.5]
    assert any("summary" in text.get_text() for text in axes.get_legend().get_texts())
    summaries = [c for c in held_frames(hermes.memory) if c.summaries]
    (marked,) = [
        c for c in axes.collections if len(c.get_offsets()) == len(summaries) and c.get_array() is None
    ]
    np.testing.assert_allclose(marked.get_offsets(), [(c.time_s, c.layer) for c in summaries])


def test_untiered_policy_has_no_boundaries() -> None:
    figure = memory_figure(watched("uniform", "policy.align=frame").memory)
    axes = figure.axes[0]
    assert not axes.texts
    assert not axes.lines
    grid = cells_of(figure)
    assert grid.shape == (10, SECONDS)  # the distance of frames is found though most are gone
    assert sorted({float(value) for value in grid.compressed()}) == [9.0]


def test_frame_pairs_fill_their_columns() -> None:
    session = watched("full", backbone="tiny_qwen2_5_vl")
    figure = memory_figure(session.memory, duration=session.now, step=2 / session.fps)
    grid = cells_of(figure)
    assert grid.shape == (10, SECONDS // 2)
    assert not np.ma.getmaskarray(grid).any()


def test_long_videos_are_merged(hermes: StreamSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COLUMNS", 12)
    figure = memory_figure(hermes.memory, duration=SECONDS)
    grid = cells_of(figure).filled(0)
    assert grid.shape == (10, 10)  # four frames a column
    for layer in hermes.memory:
        visual = int((layer.video.kind == int(TokenKind.VISUAL)).sum())
        assert grid[layer.index].sum() * 4 == pytest.approx(visual)
    # 41 frames: ten columns of four and one of a single frame, which is averaged over itself.
    grid = cells_of(memory_figure(hermes.memory, duration=SECONDS + 1))
    assert grid.shape == (10, 11)


def test_start_moves_the_axis() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (30, 42, 42, 3), np.uint8)
    session = open_session("tiny_llava_onevision", "fifo", 64, overrides=["video.fps=1"])
    session.feed(open_source(frames, fps=1.0, start=10))
    session.flush()
    figure = memory_figure(session.memory, duration=session.now - 10, start=10)
    assert figure.axes[0].get_xlim() == (10, 30)
    assert cells_of(figure)[0, -1] == 9


def test_empty_memory_can_be_drawn(tmp_path: Path) -> None:
    session = open_session("tiny_llava_onevision", "fifo", 64)
    memory_map(session.memory, tmp_path / "map.svg")
    assert (tmp_path / "map.csv").read_text().splitlines() == ["layer,frame,time_s,tokens,summaries"]


@pytest.mark.parametrize("name", ["map", "map.mp4", "folder.png"])
def test_paths_that_cannot_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=name):
        check_map_path(tmp_path / name)


def test_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a folder"):
        check_map_path(tmp_path / "file" / "map.png")


def test_nothing_half_written(hermes: StreamSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Figure, target: Path, **options: object) -> None:
        Path(target).write_bytes(b"half")
        raise RuntimeError("disk full")

    (tmp_path / "map.png").write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        session_map(hermes, tmp_path / "map.png")
    assert [item.name for item in tmp_path.iterdir()] == ["map.png"]
    assert (tmp_path / "map.png").read_bytes() == b"old"
