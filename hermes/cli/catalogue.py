"""`hermes list` and `show`: what there is, and what it does."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from hermes.cli.completion import CONFIGURED, complete_names, names_of
from hermes.cli.found_setting import FoundSetting, find_setting
from hermes.cli.output import out, prose
from hermes.config import (
    Part,
    available,
    build,
    compose,
    config_source,
    experiment_title,
    resolved_yaml,
    settings_of,
    settings_table,
    to_dict,
)
from hermes.errors import SettingError, did_you_mean
from hermes.pages.text import clean
from hermes.registry import KINDS, OURS, registry

if TYPE_CHECKING:
    from hermes.policy import MemoryPolicy

_PARTS = ("scorer", "smoother", "selector", "merger", "reindexer")
# What `hermes list` lists, and the registries or configuration folders behind it.
_LISTED = {
    "policies": ("policy",),
    "backbones": ("backbone",),
    "parts": _PARTS,
    **{f"{part}s": (part,) for part in _PARTS},
    "probes": ("probe",),
    "callbacks": ("callback",),
    "data": ("data",),
    "judges": ("judge",),
    "experiments": ("experiment",),
    "commands": ("command",),
}
_ALL = ("policies", "backbones", "parts", "probes", "callbacks", "data", "judges", "experiments", "commands")
# What a model family has where no checkpoint is named.
_OWN_WEIGHTS = {"random": "(random weights)", "trained": "(trained, comes with Hermes)", "": "(name one)"}
_HOOKS = ("admit", "reduce", "watch", "compress", "archive", "recall")


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help=f"One of {', '.join(_LISTED)}; default: all.",
            metavar="KIND",
            autocompletion=lambda: list(_LISTED),
        ),
    ] = None,
) -> None:
    """List policies, backbones and the parts they are made of, those of other installed packages included."""
    if kind is None:
        wanted = [single for name in _ALL for single in _LISTED[name]]
    else:
        names = {
            **{name: name for name in _LISTED},
            **{single: single for v in _LISTED.values() for single in v},
        }
        if kind not in names:
            raise SettingError("hermes list", kind, list(_LISTED), did_you_mean(kind, _LISTED))
        wanted = list(_LISTED.get(kind, (kind,)))
    tables = [table for single in wanted for table in _tables(single) if table.row_count or kind is not None]
    for table in tables:
        out().print(table)
        out().print()


def _tables(kind: str) -> Iterator[Table]:
    if kind == "experiment":
        titles = [(name, experiment_title(name)) for name in available(kind)]
        yield _rows("experiment", ("title",), titles)
    elif kind == "policy":
        yield _policies()
    else:
        entries = registry(kind).describe()
        title = {"backbone": "backbone families"}.get(kind, kind)
        yield _rows(title, ("", "from"), [(e.name, _plain(e.summary), e.origin) for e in entries])
    if kind == "backbone":
        yield _backbones()


def _policies() -> Table:
    rows = []
    for entry in registry("policy").describe():
        try:
            facts = _facts(registry("policy").get(entry.name), entry.origin)
        except SettingError:
            facts = entry.origin
        rows.append((entry.name, _two_lines(entry.summary, facts)))
    for name in _only_configured("policy"):
        found = type(_configured("policy", name))
        summary = f"{registry('policy').name_of(found)} with other settings: hermes show {name}"
        rows.append((name, _two_lines(summary, _facts(found))))
    return _rows("policy", ("",), sorted(rows, key=lambda row: str(row[0])))


def _facts(policy: type[MemoryPolicy], origin: str = OURS) -> str:
    """What a policy declares of itself, in one line."""
    from hermes.policy import MemoryPolicy

    hooks = [
        hook
        for hook in _HOOKS
        if getattr(policy, hook, None) is not getattr(MemoryPolicy, hook, None)
        and (hook != "watch" or _watches(policy))
    ]
    attention = "observes attention" if policy.needs_attention else "needs no attention"
    of = "" if origin == OURS else f"; from {origin}"
    return f"{policy.bound}; budget in {policy.unit}; {attention}; {', '.join(hooks)}; {policy.source}{of}"


def _watches(policy: type[MemoryPolicy]) -> bool:
    """Whether it sees the chunks' attention by default: tiers do where a scorer asks for it."""
    import torch

    from hermes.policy import StreamContext

    try:
        one = build(policy)
        one.start(StreamContext(10, 1, 1, torch.Generator(), lambda height, width: 1))
    except SettingError:
        return True  # settings without defaults
    return one.watch() is not None


def _backbones() -> Table:
    found = []
    for name in _only_configured("backbone", also_registered=True):
        config = _configured("backbone", name)
        family = registry("backbone").get(config.family)
        own = _OWN_WEIGHTS[getattr(family, "own_weights", "")]
        fps = f"{config.fps:g}" if config.fps else ""
        layers = getattr(family, "layer_kinds", "")
        found.append((name, config.checkpoint or own, config.family, fps, layers))
    return _rows("backbone", ("checkpoint", "family", "frames a second", "layers"), found)


def _rows(title: str, columns: Sequence[str], rows: Sequence[tuple[str | Text, ...]]) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    table.padding = (0, 2, 0, 0)
    table.add_column("name", style="cyan", no_wrap=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _two_lines(text: str, below: str) -> Text:
    return Text.assemble(f"{_plain(text)}\n", (_plain(below), "dim"))


def _plain(text: str) -> str:
    return prose(text)


def _only_configured(kind: str, also_registered: bool = False) -> list[str]:
    names = registry(kind).names()
    return [name for name in available(kind) if also_registered or name not in names]


def _configured(kind: str, name: str) -> Any:
    """The settings that `kind=name` stands for; the others of a run are left out."""
    from hermes.session.config import FALLBACKS, RunConfig

    group = dataclasses.make_dataclass("Group", [(kind, settings_of(RunConfig)[kind].type)])
    return getattr(compose({kind: name}, [], group, fallbacks=FALLBACKS), kind)


class _Found(NamedTuple):
    kind: str
    show: Callable[[], None]


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="As in hermes list, a setting such as video.fps, or a dotted path: my_module.MyPolicy.",
            metavar="NAME",
            autocompletion=complete_names,
        ),
    ],
    kind: Annotated[
        str | None,
        typer.Option(help="Where a name is used twice: policy, scorer, backbone, ...", metavar="KIND"),
    ] = None,
) -> None:
    """Explain one policy, backbone, part, configuration or setting: what it does, and its defaults.

    Examples:
    \b
    hermes show hermes
    hermes show random --kind scorer
    hermes show policy.tiers.working.scorer
    hermes show video
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    kinds = [*(k for k in KINDS if k != "command"), "experiment"]
    if kind is not None and kind not in kinds:
        raise SettingError("--kind", kind, kinds, did_you_mean(kind, kinds))
    searched = kinds if kind is None else [kind]
    found = [match for single in searched for match in _matches(single, name)]
    if not found and kind is None and (setting := find_setting(name)) is not None:
        found = [_Found("setting", lambda: _show_setting(setting))]
    if not found and ("." in name or ":" in name):
        found = [_of_class(registry(kind or "policy").get(name, "hermes show"), name)]
    if not found:
        known = sorted({n for single in searched for n in names_of(single)})
        allowed = "a name of hermes list, a setting of hermes validate, or a dotted path"
        raise SettingError("hermes show", name, allowed, did_you_mean(name, known))
    for match in found:
        match.show()


def _matches(kind: str, name: str) -> Iterator[_Found]:
    if kind != "experiment" and name in registry(kind).names():
        yield _of_class(registry(kind).get(name), name, kind)
    if kind in CONFIGURED and name in available(kind) and not _says_no_more(kind, name):
        yield _Found(kind, lambda: _show_file(kind, name))


def _says_no_more(kind: str, name: str) -> bool:
    """Whether a configuration is the class of its name with its defaults."""
    return (
        kind == "policy"
        and name in registry(kind).names()
        and _configured(kind, name) == build(registry(kind).get(name))
    )


def _of_class(found: Any, name: str, kind: str = "") -> _Found:
    return _Found(kind, lambda: _show_class(kind or _kind_of(found), name, found))


def _kind_of(found: Any) -> str:
    """A part's kind; other groups of settings have none."""
    from hermes.backbone import Backbone

    if isinstance(found, type) and issubclass(found, Backbone):
        return "backbone"
    return getattr(found, "kind", "settings" if dataclasses.is_dataclass(found) else "")


def _show_setting(found: FoundSetting) -> None:
    console = out()
    console.print(Text.assemble((found.key, "bold cyan"), "  setting"))
    console.print(Text(found.help or "(no description)"), soft_wrap=True)
    plain = to_dict(found.value)
    if isinstance(plain, (dict, list)) and plain:
        console.print()
        if not isinstance(found.value, (Mapping, list, tuple)):
            _show_settings(type(found.value), found.key)
        console.print(Text(f"by default{found.of}, as YAML", style="bold"))
        _write(resolved_yaml({found.key.rpartition(".")[2]: found.value}))
    else:
        console.print(Text(f"by default{found.of}: {json.dumps(plain, ensure_ascii=False)}"), soft_wrap=True)
    console.print()
    console.print(Text(f"allowed: {found.allowed}"), soft_wrap=True)
    named = isinstance(plain, dict) and "name" in plain
    inner = "" if named or not isinstance(plain, dict) or not plain else f".{next(iter(plain))}"
    console.print(Text(f"set it: {found.key}{inner}={plain['name'] if named else 'VALUE'}"), soft_wrap=True)


def _show_class(kind: str, name: str, found: Any) -> None:
    console = out()
    console.print(Text.assemble((name, "bold cyan"), f"  {kind}, {found.__module__}.{found.__qualname__}"))
    console.print(Text(prose(f"{inspect.getdoc(found) or '(no description)'}\n")))
    if kind == "policy":
        console.print(Text(f"{_facts(found)}\n"), soft_wrap=True)
    if kind == "backbone":
        from hermes.backbone import BackboneConfig

        _show_settings(BackboneConfig, kind)
    elif kind == "settings":
        _show_settings(found, "")
    elif isinstance(found, type) and issubclass(found, Part):
        _show_settings(found, kind if kind in ("policy", "probe", "judge") else "")
        if not inspect.isabstract(found):
            _show_yaml(found)


def _show_settings(found: type, where: str) -> None:
    rows = [tuple(map(_plain, row)) for row in settings_table(found, where)]
    if rows:
        out().print(_rows("settings", ("type", "default", ""), rows))
        out().print()


def _show_yaml(found: type) -> None:
    try:
        text = resolved_yaml(build(found))
    except SettingError:
        return  # a setting is required, so there are no defaults to print
    out().print(Text("as YAML", style="bold"))
    _write(text)
    _write("\n")


def _show_file(kind: str, name: str) -> None:
    console = out()
    console.print(Text.assemble((name, "bold cyan"), f"  {kind} configuration, configs/{kind}/{name}.yaml"))
    _write(config_source(kind, name))
    if kind in ("policy", "backbone"):
        console.print(Text("\nwith every setting", style="bold"))
        _write(resolved_yaml(_configured(kind, name)))
    _write("\n")


def _write(text: str) -> None:
    """Write a text on stdout as it is: rich would wrap it."""
    sys.stdout.write(clean(text))
