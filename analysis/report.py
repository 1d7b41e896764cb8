"""The folder an investigation ends in: figures, tables, the tiers as a policy config, and a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hermes.evaluation.reports.run_page import run_with
from hermes.evaluation.results.run_folder import read_manifest
from hermes.files import write_text_whole
from hermes.pages.markdown import Markdown, escape, table, write_page

from .figures import (
    plot_ages,
    plot_categories,
    plot_depth,
    plot_patches,
    plot_profiles,
    plot_windows,
)
from .findings import Findings, layers_shown, paper_tiers, write_tables
from .measures import Estimate
from .study import Study

__all__ = ["write_report", "write_windows"]

_COLUMNS = {
    "newest_share": "newest frame",
    "recency": "recency",
    "k": "k",
    "rhythm": "rhythm",
    "effective_tokens": "effective tokens",
    "gini": "Gini",
    "prefix_share": "prefix",
    "sensitivity": "sensitivity (bits)",
}


def write_report(found: Findings, folder: Path, title: str = "") -> Path:
    """Write ``report.md``, ``tiers.yaml``, ``plots/*.png`` and ``tables/*.csv``; returns the page.

    Nothing in it depends on when it is written.

    Args:
        found: of a study.
        folder: of the run, with its manifest.
        title: of the page; default: the folder's name.
    """
    plots, study = folder / "plots", found.study
    plots.mkdir(parents=True, exist_ok=True)
    plot_profiles(plots / "profiles.png", study)
    plot_ages(plots / "ages.png", study)
    plot_patches(plots / "patches.png", study)
    plot_depth(plots / "depth.png", found)
    plot_categories(plots / "categories.png", found)
    write_tables(found, folder / "tables")
    tiers = found.discovery.config(f"Found by hermes investigate: {_sampled(study)}.")
    write_text_whole(folder / "tiers.yaml", tiers)
    manifest = folder / "manifest.json"
    about = read_manifest(folder) if manifest.is_file() else {}
    parts = (f"# {escape(title or folder.resolve().name)}", *_sections(found), run_with(about))
    return write_page(folder / "report.md", parts)


def write_windows(found: Mapping[int, Findings], folder: Path, title: str = "") -> Path:
    """Write the page and figure that put the runs of several windows beside each other.

    Source: arXiv 2601.14724, Fig. 6.

    Args:
        found: by window, tokens; each has a folder ``window_N`` of its own.
        folder: of all of them.
        title: of the page.
    """
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    plot_windows(folder / "plots" / "windows.png", {window: one.study for window, one in found.items()})
    rows = []
    for window, one in found.items():
        shown = layers_shown(len(one.layers))
        shares = [_span(one.layers[layer]["newest_share"]) for layer in shown.values()]
        rhythm = [_rhythm(one, layer) for layer in shown.values()]
        name = Markdown(f"[{window}](window_{window}/report.md)")
        rows.append([name, str(len(one.study.asked)), *shares, *rhythm, str(len(one.discovery.tiers))])
    depths = list(layers_shown(len(next(iter(found.values())).layers)))
    head = ["window (tokens)", "questions", *(f"newest frame, {d}" for d in depths)]
    head += [*(f"rhythm, {d}" for d in depths), "tiers found"]
    sentences = "\n".join(f"- {window}: {one.discovery.sentence}" for window, one in found.items())
    parts = (
        f"# {escape(title or folder.resolve().name)}",
        "The same questions over a cache of several sizes; each window has a page of its own.",
        "![Attention against cache index, a column a window](plots/windows.png)",
        table(head, rows),
        sentences,
    )
    return write_page(folder / "report.md", parts)


def _sampled(study: Study) -> str:
    videos = len(set(study.videos()))
    return f"{len(study.asked)} questions in {videos} video{'s' * (videos != 1)}"


def _sections(found: Findings) -> list[str]:
    study = found.study
    counts = ", ".join(f"{len(study.videos(name))} {escape(name)}" for name in found.categories)
    return [
        f"{_sampled(study)} ({counts}); {study.tokens_per_frame} tokens a frame, {study.num_layers} layers.",
        f"**{found.discovery.sentence}**",
        "## Against the paper\n\n" + _claims(found),
        "## Profiles\n\n" + _PROFILES,
        "## Ages and places\n\n" + _AGES,
        "## Depth\n\n![Recency, rhythm and sparsity against depth](plots/depth.png)\n\n" + _layers(found),
        "## Tiers\n\n" + _tiers(found),
        "## Categories\n\n" + _CATEGORIES + "\n\n" + _categories(found),
    ]


def _claims(found: Findings) -> str:
    """The three findings of the paper's Sec. 2, each with what was measured."""
    shown = layers_shown(len(found.layers))
    share = {name: found.layers[layer]["newest_share"] for name, layer in shown.items()}
    shallow, middle, deep = share.values()
    even = found.study.tokens_per_frame / _held(found.study)
    between = shallow.low > middle.high and middle.low > deep.high
    rows = [
        [
            "shallow layers look at the newest frame",
            f"layer {shown['shallow']}: {_span(shallow)} of the video attention; spread evenly {even:.3f}",
            "yes" if shallow.low > max(even, deep.high) else "no",
        ],
        [
            "deep layers have a peak in every frame",
            f"layer {shown['deep']}: {_rhythm(found, shown['deep'])}",
            "yes" if found.rhythms[shown["deep"]].is_frame else "no",
        ],
        [
            "middle layers lie between",
            f"newest frame: {_span(shallow)}, {_span(middle)}, {_span(deep)} "
            f"in layers {', '.join(map(str, shown.values()))}",
            "yes" if between else "no",
        ],
    ]
    text = (
        "What arXiv 2601.14724, Sec. 2, found for layers 0, 8 and 26 of 28, at the same depths here. "
        "`yes` where 95 % intervals say so; means with intervals.\n\n"
    )
    return text + table(["the paper", "measured here", "seen here?"], rows)


def _held(study: Study) -> float:
    """Video tokens held, mean over questions."""
    count = study.overall().by["index"].count[0]
    return float(count.sum() / count.max())


def _rhythm(found: Findings, layer: int) -> str:
    rhythm, strength = found.rhythms[layer], found.layers[layer]["rhythm"]
    if rhythm.period != rhythm.period:
        return f"no period ({_span(strength)})"
    return f"period {rhythm.period:g}{', a frame' * rhythm.is_frame} ({_span(strength)})"


def _layers(found: Findings) -> str:
    rows = []
    for index, row in enumerate(found.layers):
        patch, share = found.anchors[index]
        period = found.rhythms[index].period
        beat = "-" if period != period else f"{period:g}"
        anchor = "-" if patch < 0 else f"{patch} ({100 * share:.0f} %)"
        rows.append([str(index), *(_span(row[name]) for name in _COLUMNS), beat, anchor])
    return _LAYERS + "\n\n" + table(["layer", *_COLUMNS.values(), "period", "anchor"], rows)


def _tiers(found: Findings) -> str:
    discovery, count = found.discovery, len(found.layers)
    rows = []
    for number, tier in enumerate(discovery.tiers):
        edge = discovery.boundaries[number - 1] if number else None
        first = str(tier.layers.start) if edge is None else f"{edge.layer} ({edge.low} to {edge.high})"
        numbers = [f"{value:.3g}" for value in (tier.recency, tier.k, tier.rhythm, tier.weight)]
        rows.append([tier.name, first, str(tier.layers.stop - 1), tier.kind, *numbers])
    tiers = table(["tier", "first layer", "last", "kind", "recency", "k", "rhythm", "budget weight"], rows)
    paper = ", ".join(
        f"{name} {layers.start}-{layers.stop - 1}" for name, layers in paper_tiers(count).items() if layers
    )
    return (
        f"{discovery.sentence}\n\n{tiers}\n\nThe paper's 10/60/30: {paper}. The tiers found are a policy: "
        "`hermes eval policy=FOLDER/tiers.yaml policy.budget=N`; `hermes compare` tells whether they answer "
        "better than others."
    )


def _categories(found: Findings) -> str:
    shown = layers_shown(len(found.layers))
    rows = []
    for name, layers in found.categories.items():
        cells = [
            _span(layers[layer][measure])
            for measure in ("newest_share", "effective_tokens")
            for layer in shown.values()
        ]
        rows.append([name, str(len(found.study.videos(name))), *cells])
    head = [f"{what}, {depth}" for what in ("newest frame", "effective tokens") for depth in shown]
    return table(["category", "questions", *head], rows)


def _span(one: Estimate) -> str:
    if one.mean != one.mean:
        return "-"
    if one.low != one.low:
        return f"{one.mean:.3g}"
    return f"{one.mean:.3g} ({one.low:.3g} to {one.high:.3g})"


_PROFILES = """Attention of the questions' tokens to each video token, mean over heads, query tokens and
questions, by how many tokens are newer. Intervals are over questions. The geometric mean lies low where few
questions give a place much and most give it nothing. Numbers:
[profile_index.csv](tables/profile_index.csv).

![Attention against cache index](plots/profiles.png)"""

_AGES = """The same for every layer, by the age of the frame and by the place in it: the mean over the tokens
that are held there. Numbers: [profile_age.csv](tables/profile_age.csv),
[profile_patch.csv](tables/profile_patch.csv).

![Attention by layer and age](plots/ages.png)

![Attention by layer and place](plots/patches.png)"""

_LAYERS = """*Newest frame*: share of the video attention on it. *Recency*: share that an exponential
forgetting with rate *k* explains. *Rhythm*: share of the log-profile's variance that comes again every
period; the *period* is in tokens, where more questions have it than chance would give. *Effective
tokens*: 2 to the entropy. *Gini*: 0 where attention is even. *Prefix*: share of all attention that goes
to the prefix (the sink). *Sensitivity*: Jensen-Shannon divergence between two questions on one memory.
*Anchor*: the place in the frame that most often has a question's peaks, and of how many questions.
Formulas: `hermes.analysis.measures`. Numbers: [layers.csv](tables/layers.csv)."""

_CATEGORIES = """Does it depend on what is asked? Share of the attention on the newest frame, and over how
many tokens attention is spread. Numbers: [categories.csv](tables/categories.csv).

![Recency and effective tokens by category](plots/categories.png)"""
