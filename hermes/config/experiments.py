"""Experiment files: settings, and what a sweep, a plot or a table adds to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hermes.config.files import _find, _no_cycle, _parse, _read, _text, available
from hermes.config.interpolation import ENVIRONMENT
from hermes.errors import InputError, SettingError, did_you_mean


class Extras(NamedTuple):
    """What an experiment file holds besides settings.

    Attributes:
        title: what it shows.
        sweep: setting -> values; ``hermes sweep`` takes their product.
        cells: name -> settings of one cell.
        besides: name -> settings of one cell outside the product.
        paper: published numbers to be printed beside ours: label of a cell -> number or {column: number}.
        baseline: what the others are compared with: name or label of a cell, or {setting: value} of the
            product; or several in a list.
        measures: costs to be shown (see ``hermes.evaluation.scoring.measures``).
        pool: settings whose values are repetitions, such as seeds: their cells are one line.
        matched: a cell of a product over budgets: all are also compared at the bytes that it holds.
    """

    title: str = ""
    sweep: Mapping[str, list[Any]] = MappingProxyType({})
    cells: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    besides: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    paper: Mapping[str, Any] = MappingProxyType({})
    baseline: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = ""
    measures: Sequence[str] = ()
    pool: Sequence[str] = ()
    matched: str = ""

    @property
    def baselines(self) -> Sequence[str | Mapping[str, Any]]:
        """The entries of ``baseline``, in a list."""
        if isinstance(self.baseline, (str, Mapping)):
            return [self.baseline] if self.baseline else []
        return list(self.baseline)


_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = MappingProxyType(
    {
        "title": ((str,), "text"),
        "baseline": ((str, dict, list), "text, a mapping or a list of these"),
        "matched": ((str,), "text"),
        "measures": ((list,), "a list"),
        "pool": ((list,), "a list"),
    }
)


_EXPERIMENT = "experiment"


def _experiment(
    name: Any, config_dirs: Sequence[Path], beside: Path | None = None, seen: tuple[Path, ...] = ()
) -> list[tuple[tuple[str, ...], Any]]:
    """The overrides an experiment file stands for, those it inherits first."""
    names = available(_EXPERIMENT, config_dirs)
    path = _find(_EXPERIMENT, name, config_dirs, beside) if isinstance(name, str) else None
    if path is None:
        raise SettingError(_EXPERIMENT, name, names, did_you_mean(str(name), names))
    _no_cycle(_EXPERIMENT, path, seen)
    content = {key: value for key, value in _read(path).items() if key not in Extras._fields}
    parent = content.pop("defaults", None)
    inherited = _experiment(parent, config_dirs, path.parent, (*seen, path)) if parent is not None else []
    return inherited + [(tuple(key.split(".")), value) for key, value in content.items()]


def _keys(content: Any) -> Iterator[str]:
    """Every key of what a file holds."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(content, list):
        for value in content:
            yield from _keys(value)


def experiment_title(name: str, config_dirs: Sequence[Path] = ()) -> str:
    """What an experiment file says of itself, or the one it inherits from; empty if neither does.

    Raises:
        SettingError: no such experiment.
        InputError: a file that is no YAML mapping.
    """
    path = _find(_EXPERIMENT, name, config_dirs)
    # A list of all of them reads no file whole where it need not.
    line = re.search(
        r"^title: *([^\s'\"#&*!|>{\[%@`][^#:\n]*?) *$", _text(path) if path else "", re.MULTILINE
    )
    return line[1] if line else experiment_extras([f"{_EXPERIMENT}={name}"], config_dirs).title


def experiment_extras(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Extras:
    """What the chosen experiment says besides settings; nothing where none is chosen.

    Raises:
        SettingError: no such experiment.
        InputError: a file in which one of them is not what it must be.
    """
    # Other words may have several values, which are no YAML before a sweep takes them apart.
    named = [text for text in overrides if text.partition("=")[0].strip() == _EXPERIMENT]
    chosen = [value for _, value in map(_parse, named)]
    found: dict[str, Any] = {}
    name, beside, seen = (chosen[-1] if chosen else None), None, ()
    while name is not None:
        # Checks that the file is there, and that it does not inherit from itself.
        _experiment(name, config_dirs, beside, seen)
        path = _find(_EXPERIMENT, name, config_dirs, beside)
        content = _read(path) if path is not None else {}
        for key in Extras._fields:
            if key in content:
                kinds, said = _KINDS.get(key, ((dict,), "a mapping"))
                if not isinstance(content[key], kinds):
                    raise InputError(f"{path}: {key} must be {said}")
                if any(one.partition(".")[0].strip() == ENVIRONMENT for one in _keys(content[key])):
                    raise InputError(f"{path}: {key}: no file can say {ENVIRONMENT}=true")
                found.setdefault(key, content[key])
        name, beside = content.get("defaults"), path.parent if path is not None else None
    return Extras(**found)
