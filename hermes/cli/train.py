"""`hermes train`: the embedded model from scratch, stage by stage, or on from where it was stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from hermes.cli.arguments import split_settings
from hermes.cli.output import err, keeps, out
from hermes.config import compose, resolved_yaml
from hermes.errors import InputError, SettingError
from hermes.files import write_text_whole


@keeps("The last checkpoint is kept.")
def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="Settings: training=embedded, training.seed=1, ...", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Train the embedded model on Wanderer and write it as a directory that transformers can load.

    Checkpoints, logs and the model go to output=FOLDER (default runs/train). The same command again goes on
    from the last checkpoint.

    Examples:
    \b
    hermes train                                         the shipped model
    hermes train training.seed=2 output=runs/seed2       another seed
    hermes train training.stages.long.steps=5000         longer
    """  # noqa: D301 (click reads the backspace as: keep the lines of this paragraph)
    words, given = split_settings(settings or [])
    if words:
        raise InputError(f"{words[0]!r} is no setting; needed: key=value, such as training.seed=1")
    from hermes.training.run import TrainRun, train_model

    run = compose({"training": "embedded"}, given, TrainRun)
    folder = run.output
    resolved, kept = resolved_yaml(run.training), folder / "config.yaml"
    # What an earlier run could not write whole is as good as none.
    if kept.exists() and not resolved.startswith(kept.read_text(encoding="utf-8", errors="replace")):
        raise SettingError(
            "output", str(folder), "a new folder", f"It holds a run with other settings: {kept}."
        )
    write_text_whole(kept, resolved)
    err().print(f"training in {folder}; progress in {folder}/logs")
    from hermes.machine.lightning import quiet_lightning

    with quiet_lightning():
        model = train_model(run.training, folder)
    out().print(str(model), soft_wrap=True)
