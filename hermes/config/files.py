"""Configuration files: where they lie, how they are read, and `key=value` words."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hermes.config.building import REMOVE
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.forwarding import shipped


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
    return path.read_text(encoding="utf-8")


def _folders(config_dirs: Sequence[Path]) -> list[Path]:
    return [shipped("configs"), *map(Path, config_dirs)]


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


def _no_cycle(group: str, path: Path, seen: tuple[Path, ...]) -> None:
    if path in seen:
        chain = " -> ".join(str(p) for p in (*seen, path))
        raise SettingError(f"{group}.defaults", path.stem, hint=f"It inherits from itself: {chain}.")
