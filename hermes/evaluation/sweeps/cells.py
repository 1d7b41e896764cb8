"""The cells of a sweep: a product over settings, each checked, each an evaluation of its own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hermes.config import experiment_extras
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.evaluation.running.settings import eval_config, settings_hash

__all__ = ["Identify", "SweepCell", "as_text", "cells_of", "matching", "split_axes"]

# Checks a cell's settings and says what makes two cells the same run, and who judges it.
Identify = Callable[[Sequence[str], Sequence[Path]], tuple[str, str]]


@dataclass(frozen=True, eq=False)
class SweepCell:
    """One evaluation of a sweep.

    Attributes:
        values: what tells it from the others, setting -> value as text.
        overrides: all its settings, as on the command line of ``hermes eval``.
        hash: of its resolved settings, without the judge; the name of its folder.
        judge: the judge's identity, if there is one.
    """

    values: Mapping[str, str]
    overrides: tuple[str, ...]
    hash: str
    judge: str = ""

    @property
    def label(self) -> str:
        """Its values in a line.

        >>> SweepCell({"policy": "fifo", "policy.budget": "64"}, (), "").label
        'policy=fifo policy.budget=64'
        """
        return " ".join(f"{key}={value}" if value else key for key, value in self.values.items())


def split_axes(words: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Settings with one value, and those with several: commas outside brackets and quotes separate values.

    >>> split_axes(["seed=0", "policy=fifo,hermes", "data.kinds=[order,visited]"])
    (['seed=0', 'data.kinds=[order,visited]'], {'policy': ['fifo', 'hermes']})
    """
    fixed: list[str] = []
    axes: dict[str, list[str]] = {}
    for word in words:
        key, _, text = word.partition("=")
        values = _values(text)
        # The last word on a setting holds.
        axes.pop(key, None)
        if len(values) > 1:
            fixed = [other for other in fixed if other.partition("=")[0] != key]
            axes[key] = values
        else:
            fixed.append(word)
    return fixed, axes


def _values(text: str) -> list[str]:
    out, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0 and not quote:
            out.append("")
        else:
            out[-1] += character
    return out


def _evaluation(overrides: Sequence[str], config_dirs: Sequence[Path]) -> tuple[str, str]:
    config = eval_config(overrides, config_dirs)
    if config.trainer.devices * config.trainer.nodes > 1:
        # Lightning would start the whole sweep again in every process.
        hint = "Of a sweep every cell is one process: --jobs runs several cells at a time."
        raise SettingError("trainer.devices", config.trainer.devices, "1, and trainer.nodes 1", hint)
    return settings_hash(config), config.judge.identity if config.judge else ""


def cells_of(
    overrides: Sequence[str], config_dirs: Sequence[Path] = (), identify: Identify = _evaluation
) -> list[SweepCell]:
    """The cells that overrides and their experiment stand for, every setting checked.

    An experiment's ``sweep`` maps settings to lists of values, whose product is taken; its ``cells`` maps
    names to settings, each a cell (or, with ``sweep``, a row of it, in which a setting may follow a swept
    one: ``policy.keep: {policy.budget: {64: 0.25}}`` leaves out other budgets); cells in ``besides`` stand
    alone, and may list values of the settings swept. Values on the command line replace the experiment's.

    Args:
        overrides: as on the command line.
        config_dirs: folders searched after the shipped ``configs/``.
        identify: checks one cell's settings; their hash, and the judge's identity or nothing.

    Raises:
        SettingError: a wrong setting in any cell, which is named; or two cells that are the same.
    """
    fixed, axes = split_axes(overrides)
    asked = set(axes)
    extras = experiment_extras(overrides, config_dirs)
    once = {key: value for key, _, value in (word.partition("=") for word in fixed)}
    axes = {
        **{key: [as_text(v) for v in values] for key, values in extras.sweep.items() if key not in once},
        **axes,
    }
    experiment = [word for word in fixed if word.startswith("experiment=")]
    own = [word for word in fixed if not word.startswith("experiment=")]
    rows: Mapping[str, Mapping[str, Any]] = extras.cells or {"": {}}
    planned = []
    for (name, settings), values in itertools.product(rows.items(), itertools.product(*axes.values())):
        chosen = dict(zip(axes, values, strict=True))
        followed = _following(settings, {**once, **chosen})
        if followed is not None:
            planned.append((name, followed, chosen))
    for name, settings in extras.besides.items():
        listed = {
            key: [one for one in value if key not in asked or as_text(one) in axes[key]]
            for key, value in settings.items()
            # Where the axis's own values are lists, a list is one of them.
            if key in axes and isinstance(value, list) and not axes[key][0].startswith("[")
        }
        for values in itertools.product(*listed.values()):
            planned.append((name, {**settings, **dict(zip(listed, values, strict=True))}, {}))
    out: dict[str, SweepCell] = {}
    for name, settings, chosen in planned:
        given = [f"{key}={as_text(value)}" for key, value in settings.items()]
        words = (*experiment, *given, *(f"{key}={value}" for key, value in chosen.items()), *own)
        # A cell outside the product still has its place on the axes, so that it can be drawn there.
        placed = {
            key: as_text(settings[key]) for key in axes if key in settings and as_text(settings[key]) != name
        }
        shown = {**({name: ""} if name else {}), **(chosen or placed)}
        try:
            found = identify(words, config_dirs)
        except (SettingError, InputError) as error:
            raise InputError(f"cell {SweepCell(shown, (), '').label or '(the only one)'}: {error}") from error
        cell = SweepCell(shown, words, *found)
        if cell.hash in out:
            raise InputError(f"two cells are the same run: {out[cell.hash].label} and {cell.label}")
        out[cell.hash] = cell
    return list(out.values())


def _following(settings: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, Any] | None:
    """A row's settings, those that follow a swept one with their value for it; None where one has none."""
    out = {}
    for key, value in settings.items():
        axis = str(next(iter(value))) if isinstance(value, Mapping) and len(value) == 1 else ""
        if axis in chosen and isinstance(value[axis], Mapping):
            values = {as_text(place): own for place, own in value[axis].items()}
            if chosen[axis] not in values:
                return None
            value = values[chosen[axis]]
        out[key] = value
    return out


def as_text(value: Any) -> str:
    """A value of an experiment file as on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def matching(cells: Sequence[SweepCell], pattern: str) -> list[SweepCell]:
    """The cells whose label matches a pattern of the shell (``*``, ``?``), case ignored.

    Raises:
        SettingError: none does.

    >>> cells = [SweepCell({name: ""}, (), "") for name in ("a, 4K", "b")]
    >>> [cell.label for cell in matching(cells, "A*")]
    ['a, 4K']
    """
    found = [cell for cell in cells if fnmatchcase(cell.label.casefold(), pattern.casefold())]
    if not found:
        labels = [cell.label for cell in cells]
        raise SettingError("--only", pattern, labels, did_you_mean(pattern, labels))
    return found
