"""References between settings, `${key}`, and to the environment, `${oc.env:NAME}`, where that is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser
from omegaconf.grammar_parser import parse

from hermes.config.schema import Written, join
from hermes.errors import SettingError

__all__ = ["ENVIRONMENT", "resolve"]

# The word that lets settings read the environment: never in a file, which may be somebody else's.
ENVIRONMENT = "environment"

_VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:([^,{}]*)(?:,([^{}]*))?\}")
# What OmegaConf takes for a value that is still to be given.
_MISSING = "???"
# Stands for a variable while references are resolved; its value is not looked at for references.
_PLACE = re.compile("\ue000(\\d+)\ue001")


def resolve(tree: Any, *, environment: bool) -> Any:
    """The same settings with every reference replaced by what it refers to.

    Args:
        tree: plain settings.
        environment: `${oc.env:NAME}` and `${oc.env:NAME,default}` read the environment. What they give knows
            how it was written (:class:`hermes.config.schema.Written`), which is what records show.

    Raises:
        SettingError: a reference to nothing, or to anything but a setting or an allowed variable.
    """
    found: list[tuple[str, str]] = []
    refers = False

    def stand_in(where: str, text: str) -> str:
        nonlocal refers
        refers = refers or "${" in text or text == _MISSING

        def put(match: re.Match[str]) -> str:
            name, default = match[1].strip(), match[2]
            value = os.environ.get(name, default)
            if value is None:
                raise SettingError(where, text, "a variable that is set", f"{name!r} is not.")
            found.append((value, match[0]))
            return f"\ue000{len(found) - 1}\ue001"

        return _VARIABLE.sub(put, text) if environment else text

    def put_back(where: str, text: str) -> str:
        if not _PLACE.search(text):
            return text
        value = _PLACE.sub(lambda match: found[int(match[1])][0], text)
        return Written.of(value, _PLACE.sub(lambda match: found[int(match[1])][1], text))

    tree = _mapped(tree, lambda where, text: stand_in(where, _checked(where, text, environment)))
    if not refers:
        # As most settings do: a sweep has hundreds of cells.
        return tree
    try:
        plain = OmegaConf.to_container(OmegaConf.create(tree), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = error.full_key or ""
        given: Any = tree
        for key in where.split("."):
            given = given.get(key) if isinstance(given, Mapping) else None
        given = _mapped(given, put_back)
        raise SettingError(where, given, hint=f"{str(error).splitlines()[0]}.") from error
    return _mapped(plain, put_back) if found else plain


def _mapped(tree: Any, change: Callable[[str, str], str], where: str = "") -> Any:
    """The tree with every text changed."""
    if isinstance(tree, Mapping):
        return {key: _mapped(value, change, join(where, key)) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_mapped(value, change, f"{where}[{at}]") for at, value in enumerate(tree)]
    return change(where, tree) if isinstance(tree, str) else tree


def _checked(where: str, text: str, environment: bool) -> str:
    """The text, if it refers to settings alone."""
    if "${" in text and (named := list(_resolvers(_VARIABLE.sub("", text) if environment else text))):
        reads = (
            f"Only {ENVIRONMENT}=true, beside the other settings, lets ${{oc.env:NAME}} read the environment."
        )
        hint = reads if "oc.env" in named and not environment else f"There is no ${{{named[0]}:...}} here."
        raise SettingError(where, text, "text, and ${key} for the value of another setting", hint)
    return text


def _resolvers(text: str) -> Iterator[str]:
    """Names of the functions that a text calls, as OmegaConf reads it."""
    waiting: list[Any]
    try:
        waiting = [parse(text)]
    except GrammarParseError:
        return  # said better where it is resolved
    while waiting:
        node = waiting.pop()
        if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
            name: Any = node.resolverName()  # type: ignore[no-untyped-call]
            yield name.getText()
        waiting += getattr(node, "children", None) or []
