"""A picture and a table of what each layer of a memory still holds."""

from __future__ import annotations

import base64
import html
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from hermes.backbone import Backbone
from hermes.errors import InputError, did_you_mean
from hermes.files import check_file_path, write_csv_whole
from hermes.memory import KVMemory
from hermes.pages.styles import save_figure
from hermes.pages.text import in_figure
from hermes.policy import MemoryPolicy
from hermes.tokens import TokenKind

__all__ = [
    "HeldFrame",
    "check_map_path",
    "held_frames",
    "memory_figure",
    "memory_map",
    "session_map",
    "session_picture",
]

_SUFFIXES = (".png", ".pdf", ".svg")

_COLUMNS = 400
_TABLE = ("layer", "frame", "time_s", "tokens", "summaries")
_EVICTED = "#f4f4f4"
_SUMMARY = "#e8000b"
_STATE = "#d8d8e8"


@runtime_checkable
class Watching(Protocol):
    """What a session shows of itself; :class:`hermes.StreamSession` does."""

    backbone: Backbone
    policy: MemoryPolicy
    fps: float

    @property
    def memory(self) -> KVMemory:
        """What is held."""

    @property
    def now(self) -> float:
        """Seconds of the stream that have passed."""


@dataclass(frozen=True)
class HeldFrame:
    """What one layer holds of one frame.

    Attributes:
        layer: the number of the decoder layer.
        frame: index of the sampled frame, or of the newest one that a summary stands for.
        time_s: seconds on the stream's clock; of a summary, the mean over the tokens it stands for.
        tokens: visual and timestamp tokens held, a mean over KV heads where those differ.
        summaries: summary tokens at this frame and time, likewise.
    """

    layer: int
    frame: int
    time_s: float
    tokens: float
    summaries: float


def held_frames(memory: KVMemory) -> list[HeldFrame]:
    """What each layer holds of each frame, by layer, then by time; frames without any token are left out."""
    cells = []
    for layer in memory:
        if not layer.length:
            continue
        table = layer.video.table.cpu()
        rows = table.shape[1] * table.shape[2]
        # [rows, V] flattened: a memory with different tokens per batch entry or KV head counts them all.
        frame, time, kind = (table[i].flatten().tolist() for i in (1, 2, 5))
        counts = Counter(zip(time, frame, (k == int(TokenKind.SUMMARY) for k in kind), strict=True))
        for time_us, index in sorted({key[:2] for key in counts}):
            tokens, summaries = counts[time_us, index, False], counts[time_us, index, True]
            cells.append(HeldFrame(layer.number, index, time_us / 1e6, tokens / rows, summaries / rows))
    return cells


def memory_map(
    memory: KVMemory,
    path: str | Path,
    *,
    duration: float | None = None,
    tiers: Mapping[str, range] | None = None,
    title: str = "",
    start: float = 0.0,
    step: float | None = None,
) -> Path:
    """Draw what each layer still holds: video time across, layers down, kept tokens per frame as colour.

    Summaries are marked at the mean time of what they stand for. Layers are the decoder's; of those that no
    policy manages, windows and recurrent states, the kind is said. A table with the same content and the
    suffix ``.csv`` is written beside the picture. Both are complete or not there.

    Args:
        path: of the picture, ``.png``, ``.pdf`` or ``.svg``; missing folders are made.
        duration: seconds of the stream that were seen, from ``start``; default: up to the newest frame held.
        tiers: managed layers of each tier, as ``policy.boundaries(num_layers)`` gives them.
        title: a line above the picture.
        start: seconds of the first frame.
        step: seconds a column stands for before columns are merged; default: one sampled frame. Families that
            join frames have tokens once a group only: ``backbone.frames_per_group / fps``.

    Returns:
        the path of the table.

    Raises:
        InputError: another suffix, or a path that cannot be written.
    """
    picture = check_map_path(path)
    table = picture.with_suffix(".csv")
    figure = memory_figure(memory, duration=duration, tiers=tiers, title=title, start=start, step=step)
    save_figure(figure, picture, dpi=150)
    return write_csv_whole(table, map(_table_row, held_frames(memory)), _TABLE)


def memory_figure(
    memory: KVMemory,
    *,
    duration: float | None = None,
    tiers: Mapping[str, range] | None = None,
    title: str = "",
    start: float = 0.0,
    step: float | None = None,
) -> Figure:
    """The picture of :func:`memory_map`, not saved."""
    cells = held_frames(memory)
    grid, edges = _grid(cells, len(memory.layers), start, duration, step)
    figure = Figure(figsize=(9.0, min(1.9 + 0.22 * len(memory.layers), 9.0)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, grid, edges, cells, _spans(memory, tiers or {}), memory)
    figure.suptitle(in_figure(title), fontsize=11)
    return figure


def session_map(session: Watching, path: str | Path, *, start: float = 0.0, title: str = "") -> Path:
    """The memory map of a session, with the tiers of its policy and everything it has seen.

    See :func:`memory_map`.

    Raises:
        InputError: another suffix, or a path that cannot be written.
    """
    return memory_map(session.memory, path, title=title, **_seen(session, start))


def session_picture(session: Watching) -> str:
    """The memory map of a session as one HTML element, which names no other file."""
    held = io.BytesIO()
    memory_figure(session.memory, **_seen(session, 0.0)).savefig(held, dpi=100, format="png")
    picture = base64.b64encode(held.getvalue()).decode()
    said = html.escape(repr(session))
    image = f'<img src="data:image/png;base64,{picture}" alt="memory map"/>'
    return f"<figure>{image}<figcaption>{said}</figcaption></figure>"


def _seen(session: Watching, start: float) -> dict[str, Any]:
    boundaries = getattr(session.policy, "boundaries", None)
    return {
        "duration": session.now - start,
        "tiers": boundaries(len(session.memory.managed)) if boundaries else None,
        "start": start,
        "step": session.backbone.frames_per_group / session.fps,
    }


def check_map_path(path: str | Path) -> Path:
    """The path of a picture that can be written, checked before anything long is begun.

    Raises:
        InputError: it cannot.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in _SUFFIXES:
        hint = did_you_mean(path.suffix.lower(), _SUFFIXES)
        raise InputError(f"{path}: the memory map is one of {', '.join(_SUFFIXES)}. {hint}".rstrip())
    check_file_path(path.with_suffix(".csv"), "the memory map")
    return check_file_path(path, "the memory map")


def _grid(
    cells: Sequence[HeldFrame], layers: int, start: float, duration: float | None, step: float | None
) -> tuple[Float[np.ndarray, "L N"], Float[np.ndarray, " N+1"]]:
    """Kept tokens per frame and layer, and the edges of the columns (s); at most _COLUMNS columns."""
    held = [(cell.time_s, cell.frame) for cell in cells if cell.tokens]
    first, last = min(held, default=(start, 0)), max(held, default=(start, 0))
    if step is None:
        # Sampling is even, so any two frames tell the distance between neighbours.
        step = (last[0] - first[0]) / (last[1] - first[1]) if last[1] > first[1] else 1.0
    if duration is None:
        duration = last[0] + step - start
    frames = max(math.ceil(duration / step - 1e-6), 1)
    merged = math.ceil(frames / _COLUMNS)
    columns = math.ceil(frames / merged)
    grid = np.zeros((layers, columns))
    for cell in cells:
        column = round((cell.time_s - start) / step) // merged
        if 0 <= column < columns:
            grid[cell.layer, column] += cell.tokens
    # The last column may stand for fewer frames than the others.
    edges = np.minimum(np.arange(columns + 1) * merged, frames)
    return grid / np.diff(edges), start + edges * step


def _draw(
    axes: Axes,
    grid: Float[np.ndarray, "L N"],
    edges: Float[np.ndarray, " N+1"],
    cells: Sequence[HeldFrame],
    tiers: Mapping[str, range],
    memory: KVMemory,
) -> None:
    layers = grid.shape[0]
    axes.set_facecolor(_EVICTED)
    kept = np.ma.masked_equal(grid, 0)
    # From light to dark, and never as light as an evicted cell, so that it reads without colour too.
    colours = LinearSegmentedColormap.from_list("kept", colormaps["cividis_r"](np.linspace(0.12, 1, 256)))
    rows = np.arange(layers + 1) - 0.5
    mesh = axes.pcolormesh(
        edges, rows, kept, cmap=colours, vmin=0, vmax=max(grid.max(), 1.0), rasterized=True
    )
    colorbar = axes.figure.colorbar(mesh, ax=axes, pad=0.015)
    colorbar.set_label("tokens kept per frame")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(layers - 0.5, -0.5), xlabel="video time (s)", ylabel="layer")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=14))
    legend: list[Artist] = [Patch(facecolor=_EVICTED, edgecolor="grey", label="none kept (evicted)")]
    legend += _mark_states(axes, memory)
    summaries = [cell for cell in cells if cell.summaries]
    if summaries:
        legend.append(
            axes.scatter(
                [cell.time_s for cell in summaries],
                [cell.layer for cell in summaries],
                marker="^",
                s=34,
                facecolor=_SUMMARY,
                edgecolor="white",
                linewidth=0.8,
                zorder=3,
                clip_on=False,
                label="summary token, at the mean time of what it stands for",
            )
        )
    _mark_tiers(axes, tiers)
    axes.legend(handles=legend, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=9)


def _spans(memory: KVMemory, tiers: Mapping[str, range]) -> dict[str, range]:
    """Decoder layers from the first managed one of each tier to that of the next."""
    numbers = [*(layer.number for layer in memory), len(memory.layers)]
    return {name: range(numbers[of.start], numbers[of.stop]) for name, of in tiers.items() if len(of)}


def _mark_states(axes: Axes, memory: KVMemory) -> list[Artist]:
    """Layers that no policy manages, in a colour of their own."""
    for state in memory.states:
        axes.axhspan(state.number - 0.5, state.number + 0.5, color=_STATE, hatch="//", linewidth=0)
    kinds = " and ".join(dict.fromkeys(state.spec.kind for state in memory.states))
    return [Patch(facecolor=_STATE, hatch="//", label=f"{kinds}: nothing to keep or evict")] if kinds else []


def _mark_tiers(axes: Axes, tiers: Mapping[str, range]) -> None:
    present = {name: layers for name, layers in tiers.items() if len(layers)}
    for layers in list(present.values())[1:]:
        axes.axhline(layers.start - 0.5, color="black", linewidth=1.2)
    if len(present) > 1:
        for name, layers in present.items():
            middle = (layers.start + layers.stop - 1) / 2
            axes.text(
                1.008, middle, in_figure(name), transform=axes.get_yaxis_transform(), va="center", fontsize=9
            )


def _table_row(cell: HeldFrame) -> dict[str, object]:
    numbers = {name: f"{getattr(cell, name):g}" for name in _TABLE[2:]}
    return {"layer": cell.layer, "frame": cell.frame, **numbers}
