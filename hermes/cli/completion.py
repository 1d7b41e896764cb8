"""What a shell completes besides commands and options: names, and `policy=` and the like with theirs."""

from __future__ import annotations

import typer

from hermes.config import available
from hermes.registry import KINDS, registry

__all__ = ["complete_names", "complete_settings", "names_of"]

# Kinds with a folder of configuration files.
CONFIGURED = ("policy", "backbone", "data", "experiment")


def names_of(kind: str) -> list[str]:
    """Registered names, and those of configuration files; nothing is imported."""
    registered = registry(kind).names() if kind in KINDS else []
    return [*registered, *(available(kind) if kind in CONFIGURED else [])]


def complete_names() -> list[str]:
    """Whatever `hermes show` explains."""
    kinds = [*(kind for kind in KINDS if kind != "command"), "experiment"]
    return sorted({name for kind in kinds for name in names_of(kind)})


def complete_settings(ctx: typer.Context, incomplete: str) -> list[str]:
    """`policy=fifo` and the like; a file where nothing is written yet."""
    given = [
        word
        for value in ctx.params.values()
        for word in (value if isinstance(value, (list, tuple)) else [value])
        if isinstance(word, str)
    ]
    kinds = (*CONFIGURED, "probe", "judge")
    # Bash takes `policy=fifo` for three words.
    last = [word for word in given if word != "="][-1:]
    if last and last[0] in kinds:
        return names_of(last[0])
    return [f"{kind}={name}" for kind in kinds if incomplete for name in dict.fromkeys(names_of(kind))]
