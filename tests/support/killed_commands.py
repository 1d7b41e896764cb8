"""Long commands that are killed, again and again, and then done once more: is the outcome the same?

Run as a module, so that its children, which are forked, have no threads.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hermes.analysis.investigation
import hermes.evaluation.sweeps.running  # noqa: F401  before children are forked
from hermes.cli import main as command_line
from hermes.evaluation import Journal
from hermes.files import write_text_whole
from hermes.training.run import train_model
from tests.support.runs import answers, write_run
from tests.training.test_training import settings

RUN = (
    "data.world.length=8",
    "data.questions=3",
    "policy.budget=16",
    "generation.max_new_tokens=2",
    "threads=1",
)
# Of a row, what differs from one run to another.
TIMES = ("metrics.csv", "costs.csv", "matched.csv")
MEASURED = {"ttft_ms", "tpot_ms", "frame_ms", "lag_s", "memory_bytes"}


def words(*argv: str) -> Callable[[Path], object]:
    def act(folder: Path) -> None:
        code = command_line([word.format(folder) for word in argv])
        if code:
            raise SystemExit(code)

    return act


COMMANDS: dict[str, Callable[[Path], object]] = {
    "eval": words("eval", *RUN, "policy=hermes", "data.streams=4", "output={}"),
    "sweep": words("sweep", *RUN, "policy=fifo,uniform", "data.streams=2", "output={}"),
    "judge": words("judge", "{}", "judge=words"),
    "train": lambda folder: train_model(settings(), folder),
    "investigate": words("investigate", *RUN, "data.streams=2", "per_category=2", "output={}"),
}


def start(name: str, folder: Path) -> None:
    if name == "judge":
        write_run(folder, answers(clips=20, each=8))
    else:
        folder.mkdir()


def told(folder: Path) -> str:
    """What a folder holds that another run of the same would hold, too."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        assert ".unfinished" not in name, name
        if path.name == "rows.jsonl":
            found[name] = [
                {key: value for key, value in vars(row).items() if key not in MEASURED}
                for row in Journal(path.parent).rows.values()
            ]
        elif path.name in ("model.safetensors", "judged.jsonl") or (
            path.suffix == ".csv" and path.name not in TIMES
        ):
            found[name] = sorted(path.read_bytes().splitlines())
    assert found
    return repr(found)


def child(act: Callable[[Path], object], folder: Path, after: float | None) -> int:
    """Do it in a process of its own, which is killed after so many seconds with all that it began."""
    pid = os.fork()
    if not pid:
        os.setsid()
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            try:
                act(folder)
            except BaseException:
                os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def main(name: str, folder: Path, kills: int) -> None:
    act = COMMANDS[name]
    start(name, folder / "whole")
    began = time.monotonic()
    assert child(act, folder / "whole", None) == 0
    seconds = time.monotonic() - began
    wanted = told(folder / "whole")
    found: Counter[str] = Counter()
    draw = random.Random(0)
    for at in range(kills):
        place = folder / f"killed{at}"
        start(name, place)
        status = child(act, place, draw.uniform(0.1, 1.0) * seconds)
        again = child(act, place, None)
        same = again == 0 and told(place) == wanted
        found[
            f"{'killed' if os.WIFSIGNALED(status) else 'finished'}, {'same' if same else f'other ({again})'}"
        ] += 1
        if same:
            shutil.rmtree(place)
    write_text_whole(folder / "found.json", json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
