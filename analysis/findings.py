"""What a study comes to: estimates per layer and category, and tiers; as tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hermes.files import write_csv_whole

from .discovery import Discovery, discover
from .measures import Estimate, LayerMeasures, Verdict, estimate, period_verdict, summarise
from .profiles import AXES, Profiles
from .study import Study

__all__ = ["PAPER", "Findings", "find", "layers_shown", "paper_tiers", "write_tables"]

# Shares of the layers in arXiv 2601.14724, Sec. 3.1.
PAPER = {"sensory": 0.1, "working": 0.6, "long-term": 0.3}
# Measures that chance makes negative, and those estimated over videos with two questions or more.
_SIGNED = ("rhythm", "rhythm_spectrum")
_PAIRS = ("sensitivity", "anchor_agreement")

Layers = list[dict[str, Estimate]]


@dataclass(frozen=True, eq=False)
class Findings:
    """A study in numbers.

    Attributes:
        study: where they are from.
        layers: per layer, every measure of ``LayerMeasures`` that has a mean, ``sensitivity`` (bits) and
            ``anchor_agreement`` between questions about one video.
        rhythms: per layer, whether there is a rhythm.
        anchors: per layer, the place in the frame that is most often a question's anchor, and the share of
            the questions in which it is; -1 without any.
        categories: the measures of each category, per layer.
        discovery: tiers.
    """

    study: Study
    layers: Layers
    rhythms: list[Verdict]
    anchors: list[tuple[int, float]]
    categories: dict[str, Layers]
    discovery: Discovery


def find(study: Study, seed: int = 0) -> Findings:
    """Estimate everything of a study, with intervals over its videos.

    Args:
        study: with one question or more.
        seed: of the bootstraps.
    """
    layers = range(study.num_layers)
    found = [study.layer(index) for index in layers]
    estimates = [_within(summarise(one, study.videos(), seed=seed)) for one in found]
    for index, row in enumerate(estimates):
        for number, name in enumerate(_PAIRS):
            row[name] = estimate(np.array([pairs[index, number] for pairs in study.pairs]), seed=seed)
    categories = {
        name: [
            _within(summarise(study.layer(index, name), study.videos(name), seed=seed)) for index in layers
        ]
        for name in sorted(study.profiles)
    }
    measures = [[LayerMeasures(*row) for row in rows] for rows in study.measures]
    return Findings(
        study,
        estimates,
        [period_verdict(one, study.tokens_per_frame) for one in found],
        [_modal([one.anchor_patch for one in part]) for part in found],
        categories,
        discover(measures, study.videos(), seed=seed),
    )


def _within(row: dict[str, Estimate]) -> dict[str, Estimate]:
    """Intervals of what cannot be negative end at 0: few videos make them wide."""
    return {
        name: one if name in _SIGNED else one._replace(low=float(np.maximum(one.low, 0.0)))
        for name, one in row.items()
    }


def _modal(places: Sequence[float]) -> tuple[int, float]:
    known = np.array([place for place in places if not np.isnan(place)], dtype=int)
    if not len(known):
        return -1, float("nan")
    counts = np.bincount(known)
    return int(counts.argmax()), float(counts.max() / len(known))


def paper_tiers(num_layers: int) -> dict[str, range]:
    """The layers of the paper's tiers in a decoder of so many (arXiv 2601.14724, Sec. 2 and 3.1).

    >>> paper_tiers(28)
    {'sensory': range(0, 2), 'working': range(2, 19), 'long-term': range(19, 28)}
    """
    ends = np.floor(np.cumsum([0.0, *PAPER.values()]) * num_layers + 1e-9).astype(int).tolist()
    return {name: range(*span) for name, span in zip(PAPER, itertools.pairwise(ends), strict=True)}


def layers_shown(num_layers: int) -> dict[str, int]:
    """The layers of arXiv 2601.14724, Fig. 2 (0, 8 and 26 of 28) at the same depths of any decoder.

    >>> layers_shown(28), layers_shown(10)
    ({'shallow': 0, 'middle': 8, 'deep': 26}, {'shallow': 0, 'middle': 3, 'deep': 9})
    """
    return {name: round(at / 27 * (num_layers - 1)) for name, at in _SHOWN.items()}


_SHOWN: Mapping[str, int] = {"shallow": 0, "middle": 8, "deep": 26}


def write_tables(found: Findings, folder: Path) -> None:
    """Write every number as CSV: layers, categories, tiers, profiles, and heads where they were measured."""
    study = found.study
    write_csv_whole(folder / "layers.csv", _layer_rows(found))
    rows = (
        {"category": name, **row} for name, layers in found.categories.items() for row in _estimates(layers)
    )
    write_csv_whole(folder / "categories.csv", rows)
    tiers = (_tier_row(found, number) for number in range(len(found.discovery.tiers)))
    write_csv_whole(folder / "tiers.csv", tiers)
    for axis in AXES:
        write_csv_whole(folder / f"profile_{axis}.csv", _profile_rows(study.overall(), axis))
    if study.heads:
        measures = np.array(study.heads)
        each = np.ndindex(measures.shape[1:3])
        heads = (
            {"layer": layer, "head": head, **_plain(name, one)}
            for layer, head in each
            for name, one in summarise(
                [LayerMeasures(*row) for row in measures[:, layer, head]], study.videos()
            ).items()
        )
        write_csv_whole(folder / "heads.csv", heads)


def _estimates(layers: Layers) -> Iterator[dict[str, Any]]:
    for index, row in enumerate(layers):
        for name, one in row.items():
            yield {"layer": index, **_plain(name, one)}


def _plain(name: str, one: Estimate) -> dict[str, Any]:
    ends = (("mean", one.mean), ("low", one.low), ("high", one.high))
    return {"measure": name, **{key: f"{value:.6g}" for key, value in ends}, "questions": one.questions}


def _layer_rows(found: Findings) -> Iterator[dict[str, Any]]:
    yield from _estimates(found.layers)
    for index, (rhythm, (patch, share)) in enumerate(zip(found.rhythms, found.anchors, strict=True)):
        for name, value in (
            ("period_claimed", rhythm.claimed),
            ("period", rhythm.period),
            ("period_is_frame", float(rhythm.is_frame)),
            ("anchor_patch", float(patch)),
            ("anchor_patch_share", share),
        ):
            yield {"layer": index, "measure": name, "mean": f"{value:.6g}"}


def _tier_row(found: Findings, number: int) -> dict[str, Any]:
    tier = found.discovery.tiers[number]
    edge = found.discovery.boundaries[number - 1] if number else None
    interval = ("", "") if edge is None else (edge.low, edge.high)
    numbers = {key: f"{getattr(tier, key):.4g}" for key in ("recency", "k", "rhythm", "weight")}
    return {
        "tier": tier.name,
        "kind": tier.kind,
        "first": tier.layers.start,
        "first_low": interval[0],
        "first_high": interval[1],
        "last": tier.layers.stop - 1,
        **numbers,
    }


def _profile_rows(profiles: Profiles, axis: str) -> Iterator[dict[str, Any]]:
    running = profiles.by[axis]
    variance = running.variance
    for layer, place in zip(*np.nonzero(running.count), strict=True):
        at = (layer, place)
        yield {
            "layer": layer,
            axis: place if axis != "age" else f"{place * profiles.seconds:g}",
            "questions": int(running.count[at]),
            "mean": f"{running.mean[at]:.6g}",
            "deviation": f"{np.sqrt(variance[at]):.6g}",
            "geometric_mean": f"{np.exp(running.log[at]):.6g}",
        }
