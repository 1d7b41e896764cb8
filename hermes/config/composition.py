"""One resolved configuration from YAML files and `key=value` overrides."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hermes.config.schema import part_type, settings_of
from hermes.config.specs import REMOVE, build, expand, patch, unknown
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.registry import registry

__all__ = ["Extras", "Fallback", "available", "compose", "config_source", "experiment_extras"]

T = TypeVar("T")


class Extras(NamedTuple):
    """What an experiment file holds besides settings.

    Source: this project.

    Attributes:
        title: what it shows.
        sweep: setting -> values; ``hermes sweep`` takes their product.
        cells: name -> settings of one cell.
        besides: name -> settings of one cell outside the product.
        paper: published numbers to be printed beside ours: label of a cell -> number or {column: number}.
        baseline: what the others are compared with: name or label of a cell, or {setting: value} of the
            product; or several in a list.
        measures: costs to be shown (see ``hermes.evaluation.measures``).
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
        """Those of ``baseline``, in a list."""
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


# What a group's value means where no file has its name, such as a checkpoint; None: nothing.
Fallback = Callable[[str], "Mapping[str, object] | None"]

_EXPERIMENT = "experiment"


def compose(
    defaults: Mapping[str, str],
    overrides: Sequence[str],
    root: type[T],
    *,
    config_dirs: Sequence[Path] = (),
    fallbacks: Mapping[str, Fallback] | None = None,
) -> T:
    """An instance of `root` from defaults, an experiment file, and overrides (this project).

    A group is a setting of `root` that is a part or has an entry in `defaults`. First every group takes the
    last choice made for it: `GROUP=NAME` is `configs/GROUP/NAME.yaml`, a path to a `.yaml` file, what the
    group's fallback makes of it, or a registered name or dotted path; a file's `defaults: OTHER` inherits
    from another choice. Then every `key=value` is applied in order, the experiment's first: a part's name
    replaces the part, `~key` or `key=null` removes an entry of a named mapping. `${key}` refers to a setting.

    Args:
        defaults: choice per group, such as `{"policy": "hermes"}`.
        overrides: `key=value` with YAML values, `~key`, `GROUP=NAME` or `experiment=NAME`.
        root: dataclass of everything.
        config_dirs: folders searched after the shipped `configs/`.
        fallbacks: per group, what a name without a file means.

    Raises:
        SettingError: anything wrong with a setting.
        InputError: a file that is not a YAML mapping.
    """
    settings = settings_of(root)
    items = [_parse(text) for text in overrides]
    chosen = [value for path, value in items if path == (_EXPERIMENT,)]
    items = [item for item in items if item[0] != (_EXPERIMENT,)]
    if chosen:
        items = _experiment(chosen[-1], config_dirs) + items
    groups = {*defaults, *(name for name, setting in settings.items() if part_type(setting.type))}
    selected: dict[str, Any] = dict(defaults)
    edits = []
    for path, value in items:
        key = path[0]
        if key not in settings:
            raise unknown("", key, value, {**settings, _EXPERIMENT: None})
        if len(path) == 1 and key in groups and _selects(value):
            selected[key] = value
        else:
            edits.append((path, value))
    choices = _Choices(config_dirs, fallbacks or {})
    tree = {key: choices.select(key, settings[key].type, value) for key, value in selected.items()}
    if chosen and _EXPERIMENT in settings:
        tree[_EXPERIMENT] = chosen[-1]
    tree = expand(root, tree)
    for path, value in edits:
        for key in reversed(path):
            value = {key: value}
        # Expanded again, so that the next edit finds the defaults of a part that came in by this one.
        tree = expand(root, patch(root, tree, value))
    return build(root, _resolve(tree))


def available(group: str, config_dirs: Sequence[Path] = ()) -> list[str]:
    """The names of a group's configuration files, sorted, such as `available("policy")` (this project)."""
    folders = [folder / group for folder in _folders(config_dirs)]
    return sorted(
        {path.relative_to(folder).as_posix()[:-5] for folder in folders for path in folder.rglob("*.yaml")}
    )


def config_source(group: str, name: str, config_dirs: Sequence[Path] = ()) -> str:
    """The text of a configuration file (this project).

    Raises:
        SettingError: no such file.
    """
    path = _find(group, name, config_dirs)
    if path is None:
        names = available(group, config_dirs)
        raise SettingError(group, name, names, did_you_mean(name, names))
    return path.read_text(encoding="utf-8")


def _folders(config_dirs: Sequence[Path]) -> list[Path]:
    # `configs/` lies beside `hermes/`, in a checkout as in an installation.
    return [Path(__file__).resolve().parents[2] / "configs", *map(Path, config_dirs)]


def _find(group: str, name: str, config_dirs: Sequence[Path], beside: Path | None = None) -> Path | None:
    if name.endswith((".yaml", ".yml")):
        path = (beside or Path()) / Path(name).expanduser()
        if not path.is_file():
            raise SettingError(group, name, "a file that exists", f"There is no file {str(path)!r}.")
        return path
    paths = [folder / group / f"{name}.yaml" for folder in _folders(config_dirs)]
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping of settings, and is a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """What a file says: the cells of a sweep read the same ones."""
    return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)


def _parse(text: str) -> tuple[tuple[str, ...], Any]:
    """`a.b=value` as (("a", "b"), value)."""
    key, equals, value = text.partition("=")
    removes = text.startswith("~")
    path = tuple(part.strip() for part in key.removeprefix("~").split("."))
    if not all(path) or bool(equals) == removes:
        raise SettingError("", text, "key=value, or ~key to remove an entry")
    if removes:
        return path, REMOVE
    if not value.strip():
        hint = f"Write {key}=null for nothing, or {key}='\"\"' for empty text."
        raise SettingError(key, "", "a value", hint)
    try:
        parsed = OmegaConf.from_dotlist([f"value={value}"])
    except (YAMLError, OmegaConfBaseException) as error:
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise SettingError(key, value, "a YAML value", f"YAML says: {problem}.") from error
    content = OmegaConf.to_container(parsed, resolve=False)
    return path, content["value"] if isinstance(content, dict) else None


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


def experiment_extras(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Extras:
    """What the chosen experiment says besides settings; nothing where none is chosen (this project).

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
                found.setdefault(key, content[key])
        name, beside = content.get("defaults"), path.parent if path is not None else None
    return Extras(**found)


def _no_cycle(group: str, path: Path, seen: tuple[Path, ...]) -> None:
    if path in seen:
        chain = " -> ".join(str(p) for p in (*seen, path))
        raise SettingError(f"{group}.defaults", path.stem, hint=f"It inherits from itself: {chain}.")


def _selects(value: Any) -> bool:
    chooses = isinstance(value, Mapping) and ("name" in value or "defaults" in value)
    return chooses or value is None or isinstance(value, str)


class _Choices:
    """What may stand for a group: a file, a fallback, a part."""

    def __init__(self, config_dirs: Sequence[Path], fallbacks: Mapping[str, Fallback]) -> None:
        self.config_dirs = config_dirs
        self.fallbacks = fallbacks

    def select(
        self, group: str, hint: object, value: Any, beside: Path | None = None, seen: tuple[Path, ...] = ()
    ) -> Any:
        if isinstance(value, Mapping):
            return self._inherit(group, hint, dict(value), beside, seen)
        if not isinstance(value, str):
            return value
        path = _find(group, value, self.config_dirs, beside)
        if path is not None:
            _no_cycle(group, path, seen)
            return self._inherit(group, hint, _read(path), path.parent, (*seen, path))
        if group in self.fallbacks and (found := self.fallbacks[group](value)) is not None:
            return dict(found)
        part = part_type(hint)
        registered = registry(part.kind).names() if part else []
        if part and (value in registered or "." in value or ":" in value):
            return {"name": value}
        names = sorted({*available(group, self.config_dirs), *registered})
        raise SettingError(group, value, names, did_you_mean(value, names))

    def _inherit(
        self, group: str, hint: object, content: dict[str, Any], beside: Path | None, seen: tuple[Path, ...]
    ) -> Any:
        parent = content.pop("defaults", None)
        if parent is None:
            return content
        base = expand(hint, self.select(group, hint, parent, beside, seen), group)
        return patch(hint, base, content, group)


def _resolve(tree: Any) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.create(tree), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = error.full_key or ""
        given: Any = tree
        for key in where.split("."):
            given = given.get(key) if isinstance(given, Mapping) else None
        raise SettingError(where, given, hint=f"{str(error).splitlines()[0]}.") from error
