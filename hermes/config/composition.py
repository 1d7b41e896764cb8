"""One resolved configuration from YAML files and `key=value` overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hermes.config.building import Part, build, expand, patch, unknown
from hermes.config.experiments import _EXPERIMENT, _experiment
from hermes.config.files import _find, _no_cycle, _parse, _read, available
from hermes.config.schema import part_type, settings_of
from hermes.errors import SettingError, did_you_mean
from hermes.registry import registry

__all__ = ["Fallback", "compose"]

T = TypeVar("T")


# What a group's value means where no file has its name, such as a checkpoint; None: nothing.
Fallback = Callable[[str], "Mapping[str, object] | None"]


def compose(
    defaults: Mapping[str, str],
    overrides: Sequence[str],
    root: type[T],
    *,
    chosen: Mapping[str, object] | None = None,
    config_dirs: Sequence[Path] = (),
    fallbacks: Mapping[str, Fallback] | None = None,
) -> T:
    """An instance of `root` from defaults, an experiment file, and overrides.

    A group is a setting of `root` that is a part or has an entry in `defaults`. First every group takes the
    last choice made for it: `GROUP=NAME` is `configs/GROUP/NAME.yaml`, a path to a `.yaml` file, what the
    group's fallback makes of it, or a registered name or dotted path; a file's `defaults: OTHER` inherits
    from another choice. Then every `key=value` is applied in order, the experiment's first: a part's name
    replaces the part, `~key` or `key=null` removes an entry of a named mapping. `${key}` refers to a setting.

    Args:
        defaults: choice per group, such as `{"policy": "hermes"}`.
        overrides: `key=value` with YAML values, `~key`, `GROUP=NAME` or `experiment=NAME`.
        root: dataclass of everything.
        chosen: what a program chose for groups, over the experiment's choice: a name, a mapping, or an
            instance, whose settings no override can change.
        config_dirs: folders searched after the shipped `configs/`.
        fallbacks: per group, what a name without a file means.

    Raises:
        SettingError: anything wrong with a setting.
        InputError: a file that is not a YAML mapping.
    """
    settings = settings_of(root)
    items = [_parse(text) for text in overrides]
    named = [value for path, value in items if path == (_EXPERIMENT,)]
    items = [item for item in items if item[0] != (_EXPERIMENT,)]
    given: list[tuple[tuple[str, ...], Any]] = [((group,), value) for group, value in (chosen or {}).items()]
    if named:
        given = _experiment(named[-1], config_dirs) + given
    groups = {*defaults, *(name for name, setting in settings.items() if part_type(setting.type))}
    selected: dict[str, Any] = dict(defaults)
    edits = []
    for path, value in [*given, *items]:
        key = path[0]
        if key not in settings:
            raise unknown("", key, value, {**settings, _EXPERIMENT: None})
        if len(path) == 1 and key in groups and (_selects(value) or value is (chosen or {}).get(key)):
            selected[key] = value
        else:
            edits.append((path, value))
    ready = {key: value for key, value in selected.items() if _made(value)}
    for path, value in edits:
        if path[0] in ready:
            allowed = f"no setting of a {path[0]} that is given ready: give it there"
            raise SettingError(".".join(path), value, allowed)
    choices = _Choices(config_dirs, fallbacks or {})
    tree = {key: choices.select(key, settings[key].type, value) for key, value in selected.items()}
    if named and _EXPERIMENT in settings:
        tree[_EXPERIMENT] = named[-1]
    tree = expand(root, tree)
    for path, value in edits:
        for key in reversed(path):
            value = {key: value}
        # Expanded again, so that the next edit finds the defaults of a part that came in by this one.
        tree = expand(root, patch(root, tree, value))
    resolved = _resolve({key: value for key, value in tree.items() if key not in ready})
    return build(root, {**resolved, **ready})


def _made(value: object) -> bool:
    return is_dataclass(value) or isinstance(value, Part)


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
