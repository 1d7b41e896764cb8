"""`hermes investigate`: what does each layer look at, and which tiers follow from it?"""

from __future__ import annotations

from typing import Annotated

import typer

from hermes.cli.arguments import split_settings
from hermes.cli.completion import complete_settings
from hermes.cli.output import keeps, out
from hermes.cli.progress import Bars
from hermes.errors import InputError

__all__ = ["investigate"]


@keeps("Every video that was watched is kept.")
def investigate(
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings: experiment=fig2_embedded, data=wanderer, per_category=20, ...",
            metavar="KEY=VALUE",
            autocompletion=complete_settings,
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Go on with a run that other weights or versions began.")
    ] = False,
) -> None:
    """Watch the attention of a benchmark's questions and find tiers in it.

    Questions are sampled per category; the memory is kept by any policy (fifo by default, as in the paper).
    The folder output=DIR gets figures, tables, the tiers found as a policy config, and a page, report.md,
    that explains them. A run that was stopped goes on where it was when the same command is given again.

    Besides the settings of hermes eval:
    \b
    per_category=100         questions sampled of each category, by seed
    categories=[A, B]        of these categories alone
    queries=question         or local, global, mixed (guidance), or any text
    per_head=false           measures of each KV head besides
    windows=[4000, 6000]     values of policy.budget, each a run of its own

    Examples:
    \b
    hermes investigate experiment=fig2_embedded output=runs/fig2
    hermes investigate per_category=20 data.world.length=64 policy.budget=120
    hermes investigate experiment=fig2 data.annotations=FILE data.videos=FOLDER
    hermes eval policy=runs/fig2/tiers.yaml policy.budget=64

    All settings with their values: hermes show fifo, hermes show wanderer, hermes validate.
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    words, given = split_settings(settings or [])
    if words:
        raise InputError(f"{words[0]!r} is no setting; needed: key=value, such as per_category=20")
    from hermes.config import experiment_extras

    from .investigation import investigate_runs
    from .settings import default_folder, investigate_config

    config = investigate_config(given)
    folder = config.output or default_folder(config)
    with Bars() as bars:
        found = investigate_runs(
            config,
            folder,
            title=experiment_extras(given).title,
            watcher=bars.watcher("videos"),
            anyway=anyway,
        )
    for window, one in found.items():
        label = f"window {window}: " if config.windows else ""
        out().print(f"{label}{one.discovery.sentence}")
    out().print(f"page: {folder / 'report.md'}", soft_wrap=True)
