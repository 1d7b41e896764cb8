"""`hermes validate`: whether settings, and the files of a benchmark, are right."""

from __future__ import annotations

from typing import Annotated

import typer

from hermes.cli.arguments import split_settings
from hermes.cli.catalogue import _write
from hermes.config import config_hash, resolved_yaml
from hermes.errors import InputError
from hermes.session.config import run_config


def validate(
    settings: Annotated[
        list[str] | None, typer.Argument(help="As for hermes ask and hermes eval.", metavar="KEY=VALUE")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="List every fault, not only the first few.")
    ] = False,
) -> None:
    """Check settings and print all of them as YAML; no model is loaded.

    With a benchmark (data=NAME data.annotations=FILE data.videos=FOLDER) also read it whole: how many videos
    and questions there are, missing videos, bad times, answers that are no option, what comes twice. The exit
    code is then 1 if anything is wrong.
    """
    words, overrides = split_settings(settings or [])
    if words:
        raise InputError(f"unexpected: {', '.join(map(repr, words))}; settings are key=value")
    if any(text.partition("=")[0].partition(".")[0] == "data" for text in overrides):
        from hermes.cli.survey import surveyed

        if surveyed(overrides, everything):
            raise typer.Exit(1)
        return

    config = run_config(overrides)
    _write(f"# config_hash: {config_hash(config)}\n{resolved_yaml(config)}")
