"""Figures of an investigation; every one reads without colour, and has a table beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from hermes.pages.styles import GREY, STYLES, Style, save_figure
from hermes.pages.text import in_figure

from .findings import Findings, layers_shown, paper_tiers
from .measures import Estimate
from .study import Study

__all__ = ["plot_ages", "plot_categories", "plot_depth", "plot_patches", "plot_profiles", "plot_windows"]

# More frames than this are marked by ticks alone.
_MOST_LINES = 60


def plot_profiles(path: Path, study: Study, title: str = "") -> None:
    """Attention against cache index for a shallow, a middle and a deep layer, frames marked.

    Source: arXiv 2601.14724, Fig. 2.
    """
    shown = layers_shown(study.num_layers)
    figure = Figure(figsize=(8, 7.2), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(len(shown), 1, sharex=True)
    running = study.overall().by["index"]
    for axes, (name, layer), style in zip(panels, shown.items(), STYLES, strict=False):
        there = running.count[layer] > 1
        x = -np.arange(running.count.shape[1])[there]
        mean, log = running.mean[layer][there], running.log[layer][there]
        deviation = np.sqrt(np.maximum(running.variance[layer][there], 0))
        error = 1.96 * deviation / np.sqrt(running.count[layer][there])
        low = np.maximum(mean - error, mean / 20)
        axes.fill_between(x, low, mean + error, color=style.colour, alpha=0.25, lw=0, label="95 % interval")
        axes.plot(x, mean, color=style.colour, lw=1.3, label="mean over questions")
        axes.plot(x, np.exp(log), color="black", lw=0.9, ls=":", label="geometric mean")
        _frames(axes, study, len(running.count[layer]))
        axes.set(yscale="log", ylabel="attention per token")
        axes.set_title(f"{name}: layer {layer}", loc="left", fontsize=10)
    panels[-1].set(xlabel="cache index, counted from the newest token (tokens)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=4, frameon=False, title=in_figure(title) or None
    )
    save_figure(figure, path, 130)


def _frames(axes: Axes, study: Study, length: int) -> None:
    """Vertical lines between frames."""
    edges = 0.5 - np.arange(0, length + 1, study.tokens_per_frame)
    if len(edges) <= _MOST_LINES:
        for number, edge in enumerate(edges):
            label = "between frames" if number == 0 else None
            axes.axvline(edge, color=GREY, lw=0.4, alpha=0.7, zorder=0, label=label)
    else:
        axes.set_xticks(edges, minor=True)


def plot_ages(path: Path, study: Study) -> None:
    """Attention per held token over layers and age, a heat map."""
    running = study.overall().by["age"]
    # Where some questions alone have tokens, a mean over them is of other videos.
    enough = running.count.max(0) >= 0.2 * running.count.max()
    last = int(np.nonzero(enough)[0].max()) + 1
    mean = np.where(running.count > 0, running.mean, np.nan)[:, :last]
    figure = Figure(figsize=(8, 1.8 + 0.16 * max(len(mean), 14)), layout="constrained")
    axes = figure.subplots()
    width = study.seconds
    image = axes.imshow(
        mean,
        norm=_scale(mean),
        cmap="viridis",
        aspect="auto",
        origin="upper",
        interpolation="nearest",
        extent=(0, last * width, len(mean) - 0.5, -0.5),
    )
    axes.invert_xaxis()
    axes.set(xlabel="age of the frame when the question came (s); newest on the right", ylabel="layer")
    _whole_ticks(axes, len(mean), "y")
    figure.colorbar(image, label="attention per held token")
    save_figure(figure, path, 130)


def plot_patches(path: Path, study: Study) -> None:
    """Attention per held token over layers and place in the frame, relative to the layer's mean."""
    running = study.overall().by["patch"]
    mean = np.where(running.count > 0, running.mean, np.nan)
    relative = mean / np.nanmean(mean, axis=1, keepdims=True)
    figure = Figure(figsize=(8, 1.8 + 0.16 * max(len(mean), 14)), layout="constrained")
    axes = figure.subplots()
    end = relative.shape[1]
    image = axes.imshow(
        relative,
        norm=_scale(relative),
        cmap="viridis",
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, end - 0.5, len(mean) - 0.5, -0.5),
    )
    axes.set(xlabel="place in the frame (raster order)", ylabel="layer")
    _whole_ticks(axes, len(mean), "y")
    _whole_ticks(axes, end, "x")
    figure.colorbar(image, label="attention per held token, 1 = layer's mean")
    save_figure(figure, path, 130)


def _scale(values: Float[np.ndarray, "L n"]) -> Normalize:
    """Colours on a logarithmic scale where values differ by more than a factor of ten."""
    known = values[np.isfinite(values) & (values > 0)]
    low, high = np.quantile(known, [0.005, 1.0]).tolist()
    return LogNorm(low, high) if high > 10 * low else Normalize(low, high)


def _whole_ticks(axes: Axes, count: int, axis: str) -> None:
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, 1000) if count / step <= 16)
    ticks = range(0, count, step)
    if axis == "y":
        axes.set_yticks(ticks)
    else:
        axes.set_xticks(ticks)


_DEPTH = (
    (("newest_share", "on the newest frame"), ("recency", "explained by forgetting")),
    (("rhythm", "by autocorrelation"), ("rhythm_spectrum", "by spectrum")),
    (("prefix_share", "on the prefix"), ("gini", "Gini coefficient")),
)
_PANELS = ("recency\n(share of attention)", "rhythm\n(share of variance)", "sink and\nsparsity")


def plot_depth(path: Path, found: Findings) -> None:
    """Recency, rhythm and sparsity against depth with intervals, and the tiers above."""
    layers = np.arange(len(found.layers))
    figure = Figure(figsize=(8, 8.6), layout="constrained")
    tiers, *panels = figure.subplots(1 + len(_DEPTH), 1, sharex=True, height_ratios=(0.8, 2, 2, 2))
    _draw_tiers(tiers, found)
    for axes, lines, label in zip(panels, _DEPTH, _PANELS, strict=True):
        for (name, text), style in zip(lines, STYLES, strict=False):
            _band(axes, layers, [row[name] for row in found.layers], style, text)
        axes.set(ylabel=label)
        axes.grid(axis="y", color="#dddddd")
        for edge in found.discovery.boundaries:
            axes.axvline(edge.layer - 0.5, color="black", lw=1)
        axes.legend(loc="best", fontsize=8, framealpha=0.9)
    claimed = [
        layer for layer, rhythm in zip(layers, found.rhythms, strict=True) if not np.isnan(rhythm.period)
    ]
    for layer in claimed:
        rhythm = found.rhythms[layer]
        mark = f"period {rhythm.period:g}" + (", a frame" if rhythm.is_frame else "")
        at = found.layers[layer]["rhythm"].high
        panels[1].annotate(
            mark, (layer, at), ha="center", va="bottom", fontsize=7, xytext=(0, 2), textcoords="offset points"
        )
    if not claimed:
        panels[1].text(
            0.02,
            0.9,
            "no layer has a period that chance does not explain",
            transform=panels[1].transAxes,
            fontsize=8,
        )
    panels[-1].set(xlabel="layer", xlim=(-0.6, len(layers) - 0.4))
    _whole_ticks(panels[-1], len(layers), "x")
    save_figure(figure, path, 130)


def _draw_tiers(axes: Axes, found: Findings) -> None:
    """Two strips: the tiers found, with the intervals of their boundaries, above those of the paper."""
    rows = {
        "found": [(_named(found, number), tier.layers) for number, tier in enumerate(found.discovery.tiers)],
        "10/60/30": list(paper_tiers(len(found.layers)).items()),
    }
    hatches = {"one": "", "sensory": "", "working": "///", "long": "...", "flat": "xx"}
    for place, parts in enumerate(rows.values()):
        for name, layers in parts:
            if len(layers):
                hatch = next(mark for key, mark in hatches.items() if name.startswith(key))
                axes.barh(
                    place,
                    len(layers),
                    left=layers.start - 0.5,
                    height=0.8,
                    color="#f2f2f2",
                    edgecolor="black",
                    lw=1,
                    hatch=hatch,
                    alpha=0.99,
                )
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
                axes.text(
                    (layers.start + layers.stop - 1) / 2,
                    place,
                    in_figure(name),
                    ha="center",
                    va="center",
                    fontsize=8,
                    bbox=box,
                )
    for edge in found.discovery.boundaries:
        axes.plot(
            (edge.low - 0.5, edge.high - 0.5),
            (-0.47, -0.47),
            color=STYLES[1].colour,
            lw=3,
            solid_capstyle="butt",
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(ylim=(1.5, -0.6))
    axes.set_title(
        "tiers; orange: 95 % interval of a boundary" if found.discovery.boundaries else "tiers",
        loc="left",
        fontsize=9,
    )
    axes.tick_params(left=False)


def _named(found: Findings, number: int) -> str:
    return "one tier" if len(found.discovery.tiers) == 1 else found.discovery.tiers[number].name


def _band(
    axes: Axes,
    x: Int[np.ndarray, " L"],
    estimates: Sequence[Estimate],
    style: Style,
    label: str,
) -> None:
    middle, low, high = (
        np.array([getattr(one, key) for one in estimates]) for key in ("mean", "low", "high")
    )
    axes.fill_between(x, low, high, color=style.colour, alpha=0.22, lw=0)
    axes.plot(x, middle, color=style.colour, marker=style.mark, ls=style.dash, ms=4, lw=1.3, label=label)


def plot_categories(path: Path, found: Findings) -> None:
    """Recency and effective tokens against depth for each category of questions."""
    layers = np.arange(len(found.layers))
    figure = Figure(figsize=(8, 6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    labels = ("attention on the newest frame\n(share)", "effective tokens\n(2 to the entropy)")
    for axes, name, label in zip(panels, ("newest_share", "effective_tokens"), labels, strict=True):
        for number, (category, rows) in enumerate(found.categories.items()):
            _band(
                axes, layers, [row[name] for row in rows], STYLES[number % len(STYLES)], in_figure(category)
            )
        axes.set(ylabel=label)
        axes.grid(axis="y", color="#dddddd")
    panels[-1].set(xlabel="layer")
    _whole_ticks(panels[-1], len(layers), "x")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 5), frameon=False)
    save_figure(figure, path, 130)


def plot_windows(path: Path, studies: Mapping[int, Study]) -> None:
    """Attention against cache index at the three depths, a column for each window size.

    Source: arXiv 2601.14724, Fig. 6.

    Args:
        path: of the PNG.
        studies: by window, tokens.
    """
    shown = layers_shown(next(iter(studies.values())).num_layers)
    figure = Figure(figsize=(4.2 * len(studies), 7), layout="constrained")
    grid = figure.subplots(len(shown), len(studies), sharey="row", sharex="col", squeeze=False)
    for column, (window, study) in enumerate(studies.items()):
        running = study.overall().by["index"]
        for row, ((name, layer), style) in enumerate(zip(shown.items(), STYLES, strict=False)):
            axes = grid[row, column]
            there = running.count[layer] > 0
            x = -np.arange(running.count.shape[1])[there]
            axes.plot(x, running.mean[layer][there], color=style.colour, lw=1)
            _frames(axes, study, running.count.shape[1])
            axes.set(yscale="log")
            axes.set_title(f"{name}: layer {layer}, window {window}", loc="left", fontsize=9)
        grid[-1, column].set(xlabel="cache index from the newest (tokens)")
    for axes in grid[:, 0]:
        axes.set(ylabel="attention per token")
    save_figure(figure, path, 130)
