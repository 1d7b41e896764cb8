"""Configuration files: where they lie, how they are read, and `key=value` words."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from hermes.config.building import REMOVE
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.forwarding import shipped

_MOST_BYTES = 2**22
_MOST_NODES = 100_000
# Of one dotted key.
_MOST_KEYS = 32


def available(group: str, config_dirs: Sequence[Path] = ()) -> list[str]:
    """The names of a group's configuration files, sorted, such as `available("policy")`."""
    folders = [folder / group for folder in _folders(config_dirs)]
    return sorted(
        {path.relative_to(folder).as_posix()[:-5] for folder in folders for path in folder.rglob("*.yaml")}
    )


def config_source(group: str, name: str, config_dirs: Sequence[Path] = ()) -> str:
    """The text of a configuration file.

    Raises:
        SettingError: no such file.
    """
    path = _find(group, name, config_dirs)
    if path is None:
        names = available(group, config_dirs)
        raise SettingError(group, name, names, did_you_mean(name, names))
    _read(path)
    return _text(path)


def _folders(config_dirs: Sequence[Path]) -> list[Path]:
    return [shipped("configs"), *map(Path, config_dirs)]


def _find(group: str, name: str, config_dirs: Sequence[Path], beside: Path | None = None) -> Path | None:
    if name.endswith((".yaml", ".yml")):
        path = (beside or Path()) / Path(name).expanduser()
        if not _is_file(path):
            raise SettingError(group, name, "a file that exists", f"There is no file {str(path)!r}.")
        return path
    paths = [folder / group / f"{name}.yaml" for folder in _folders(config_dirs)]
    return next((path for path in paths if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    """Whether it is a file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = copy.deepcopy(_parsed(_text(path)))
    except _UnreadableError as error:
        raise InputError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must be a mapping of settings, and is a {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """What a file says: the cells of a sweep read the same ones."""
    with _reading():
        if (size := _size(yaml.compose(text, yaml.SafeLoader), {})) > _MOST_NODES:
            raise _UnreadableError(f"{size} values with its aliases written out; at most {_MOST_NODES}")
        return OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)


def _text(path: Path) -> str:
    with _reading():
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise _UnreadableError(f"{size} bytes; at most {_MOST_BYTES}")
        # A byte order mark is no part of the text.
        return path.read_text(encoding="utf-8-sig")


class _UnreadableError(Exception):
    """Why a text is no YAML that can be taken."""


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except _UnreadableError:
        raise
    except RecursionError:
        raise _UnreadableError("values are nested too deep") from None
    except Exception as error:
        # Of PyYAML, whose tags raise whatever Python does with a text that is none of their kind.
        said = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise _UnreadableError(said) from error


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a document has with its aliases written out, which may be far more than its text."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES + 1  # an alias of what it is part of has no end
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = (part for one in inner for part in (one if isinstance(one, tuple) else (one,)))
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _parse(text: str) -> tuple[tuple[str, ...], Any]:
    """`a.b=value` as (("a", "b"), value)."""
    key, equals, value = text.partition("=")
    removes = text.startswith("~")
    path = tuple(part.strip() for part in key.removeprefix("~").split("."))
    if not all(path) or bool(equals) == removes or len(path) > _MOST_KEYS:
        raise SettingError("", text, "key=value, or ~key to remove an entry")
    if removes:
        return path, REMOVE
    if not value.strip():
        hint = f"Write {key}=null for nothing, or {key}='\"\"' for empty text."
        raise SettingError(key, "", "a value", hint)
    try:
        return path, _value(value)
    except _UnreadableError as error:
        cause = error.__cause__
        problem = " ".join(str(getattr(cause, "problem", error)).split())
        raise SettingError(key, value, "a YAML value", f"YAML says: {problem}.") from error


def _value(text: str) -> Any:
    with _reading():
        if _size(yaml.compose(text, yaml.SafeLoader), {}) > _MOST_NODES:
            raise _UnreadableError(f"more than {_MOST_NODES} values")
        content = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        return content["value"] if isinstance(content, dict) else None


def _no_cycle(group: str, path: Path, seen: tuple[Path, ...]) -> None:
    if path in seen:
        chain = " -> ".join(str(p) for p in (*seen, path))
        raise SettingError(f"{group}.defaults", path.stem, hint=f"It inherits from itself: {chain}.")
