"""Records of measurements, one line of a table each."""

from __future__ import annotations

import csv
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from hermes.attention import NAME
from hermes.errors import InputError
from hermes.files import csv_cell
from hermes.machine.environment import environment
from hermes.version import __version__

__all__ = ["Record", "Recorder", "commit", "frames_of", "write_records"]


@dataclass(frozen=True)
class Record:
    """One measured operation.

    Attributes:
        operation: what was measured.
        provider: who ran it: ``torch``, ``compile``, ``triton``, a policy.
        shape: sizes, as text.
        dtype: of the tensors.
        unit: of the three values.
        median, low, high: median, first and last decile over ``rounds``.
        machine, versions, commit: where and with what.
    """

    operation: str
    provider: str
    shape: str
    dtype: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int
    machine: str
    versions: str
    commit: str


class Recorder:
    """Makes records that share a machine, its versions and a commit.

    >>> record = Recorder("cpu").record("add", "torch", "8", "float32", [1.0, 2.0, 3.0], unit="ms")
    >>> record.median, record.rounds
    (2.0, 3)
    """

    def __init__(self, device: torch.device | str) -> None:
        about = environment(NAME, device)
        threads = "" if torch.device(device).type == "cuda" else f", {about['threads']} threads"
        self.machine = f"{about['device_name']}{threads}"
        names = ("python", "torch", "triton", "transformers")
        self.versions = " ".join(f"{name} {about['versions'].get(name)}" for name in names)
        self.commit = commit()

    def record(
        self, operation: str, provider: str, shape: str, dtype: str, values: Sequence[float], *, unit: str
    ) -> Record:
        """Median and deciles of ``values``.

        Raises:
            InputError: there are none.
        """
        if not values:
            raise InputError(f"{operation}: nothing was measured")
        deciles = statistics.quantiles(values, n=10, method="inclusive") if len(values) > 1 else [values[0]]
        return Record(
            operation,
            provider,
            shape,
            dtype.removeprefix("torch."),
            unit,
            statistics.median(values),
            deciles[0],
            deciles[-1],
            len(values),
            self.machine,
            self.versions,
            self.commit,
        )


def commit() -> str:
    """The commit this package runs from, or its version where it is installed."""
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        try:
            done = subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return __version__
        return done.stdout.strip()
    return __version__


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Append records to a CSV file, which gets its header if it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Record)])
        if new:
            writer.writeheader()
        writer.writerows({k: csv_cell(v) for k, v in asdict(record).items()} for record in records)


def frames_of(record: Record) -> int:
    """Frames seen when a record of a stream was taken."""
    return int(record.shape.split()[0])
