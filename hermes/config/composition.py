"""One resolved configuration from YAML files and `key=value` overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from hermes.config.building import Part, build, expand, patch, unknown
from hermes.config.experiments import _EXPERIMENT, _experiment
from hermes.config.files import _find, _no_cycle, _parse, _read, available
from hermes.config.interpolation import ENVIRONMENT, resolve
from hermes.config.schema import join, part_type, settings_of
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
    replaces the part, `~key` or `key=null` removes an entry of a named mapping. `${key}` refers to a setting,
    and with the override `environment=true`, which no file can give, `${oc.env:NAME}` to the environment.

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
    environment = any(value is True for path, value in items if path == (ENVIRONMENT,))
    items = [item for item in items if item[0] != (ENVIRONMENT,)]
    named = [value for path, value in items if path == (_EXPERIMENT,)]
    items = [item for item in items if item[0] != (_EXPERIMENT,)]
    given: list[tuple[tuple[str, ...], Any]] = [((group,), value) for group, value in (chosen or {}).items()]
    if named:
        given = _experiment(named[-1], config_dirs) + given
    groups = {*defaults, *(name for name, setting in settings.items() if part_type(setting.type))}
    selected: dict[str, Any] = dict(defaults)
    edits = []
    choices = _Choices(config_dirs, fallbacks or {})

    def spread(selected: Mapping[str, Any]) -> dict[str, Any]:
        tree = {key: choices.select(key, settings[key].type, value) for key, value in selected.items()}
        return cast(dict[str, Any], expand(root, tree))

    for path, value in [*given, *items]:
        key = path[0]
        if key not in settings:
            known = {**settings, _EXPERIMENT: None, ENVIRONMENT: None}
            raise _with_hint(unknown("", key, value, known), path, spread(defaults))
        if len(path) == 1 and key in groups and (_selects(value) or value is (chosen or {}).get(key)):
            selected[key] = value
        else:
            edits.append((path, value))
    ready = {key: value for key, value in selected.items() if _made(value)}
    for path, value in edits:
        if path[0] in ready:
            allowed = f"no setting of a {path[0]} that is given ready: give it there"
            raise SettingError(".".join(path), value, allowed)
    tree = spread(selected)
    if named and _EXPERIMENT in settings:
        tree[_EXPERIMENT] = named[-1]
    for path, value in edits:
        for key in reversed(path):
            value = {key: value}
        try:
            # Expanded again, so that the next edit finds the defaults of a part that came in by this one.
            tree = expand(root, patch(root, tree, value))
        except SettingError as error:
            raise _with_hint(error, path, tree) from None
    plain = {key: value for key, value in tree.items() if key not in ready}
    return build(root, {**resolve(plain, environment=environment), **ready})


def _made(value: object) -> bool:
    return is_dataclass(value) or isinstance(value, Part)


def _with_hint(error: SettingError, path: Sequence[str], tree: Mapping[str, Any]) -> SettingError:
    """The error for a key that is no setting there, with where there is one of that name."""
    if "There is no setting" in error.hint and "Did you mean" not in error.hint:
        ends = (f".{'.'.join(path)}", f".{path[-1]}")
        keys = list(_dotted(tree))
        found = next(filter(None, ([key for key in keys if key.endswith(end)] for end in ends)), [])
        if found:
            hint = f"{error.hint} Did you mean {' or '.join(map(repr, found[:3]))}?"
            return SettingError(error.where, error.given, error.allowed, hint)
    return error


def _dotted(tree: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """The dotted keys of a tree of settings, groups included."""
    for key, value in tree.items():
        yield join(where, key)
        if isinstance(value, Mapping):
            yield from _dotted(value, join(where, key))


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
