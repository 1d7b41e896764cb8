"""Collecting: the questions of a benchmark, what each looks at, and what is kept of it on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from analysis.mass import LayerMass
from analysis.measures import LayerMeasures, measure
from analysis.profiles import Profiles
from analysis.question import ask_watched, read_watched
from analysis.settings import PROMPTS, InvestigateConfig
from hermes import Backbone, Callback, Chunk, StreamSession
from hermes.data.annotations import TimedQuestion
from hermes.data.benchmark import Benchmark
from hermes.errors import InputError
from hermes.evaluation.manifest import claim, manifest
from hermes.evaluation.settings import settings_hash
from hermes.prompts import GuidancePrompts
from hermes.run import session_from

__all__ = ["Asked", "Study", "collect", "sample_questions"]

_STATE = "state.npz"


@dataclass(frozen=True)
class Asked:
    """One question of a study (this project).

    Attributes:
        clip, number: index of the video, and of the question in it.
        category: the benchmark's, or else the task.
        time_s: when it was asked, in seconds of the stream.
        tokens_per_frame: video tokens of a frame, or of frames encoded together.
    """

    clip: int
    number: int
    category: str
    time_s: float
    tokens_per_frame: int


@dataclass(eq=False)
class Study:
    """What a run has seen so far (this project).

    Attributes:
        hash: of the settings it was made with.
        seconds: width of a bin of age.
        profiles: running statistics by category.
        asked: the questions.
        measures: of each question, per layer one entry, or one a KV head.
        clips: videos that are done.
    """

    hash: str
    seconds: float = 1.0
    profiles: dict[str, Profiles] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    measures: list[list[list[LayerMeasures]]] = field(default_factory=list)
    clips: list[int] = field(default_factory=list)

    def add(self, asked: Asked, layers: Sequence[Sequence[LayerMass]]) -> None:
        """Take in what one question looked at."""
        profiles = self.profiles.setdefault(asked.category, Profiles(self.seconds))
        profiles.add(layers)
        self.asked.append(asked)
        self.measures.append([[measure(part, asked.tokens_per_frame) for part in heads] for heads in layers])

    def overall(self) -> Profiles:
        """The profiles of all categories together."""
        out = Profiles(self.seconds)
        for _, part in sorted(self.profiles.items()):
            out.merge(part)
        return out

    def save(self, folder: Path) -> None:
        """Replace the file of the run's folder in one step: an interruption leaves the one before."""
        about = {
            "hash": self.hash,
            "seconds": self.seconds,
            "clips": self.clips,
            "categories": list(self.profiles),
            "asked": [asdict(asked) for asked in self.asked],
        }
        arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
        for number, part in enumerate(self.profiles.values()):
            arrays |= part.arrays(str(number))
        names = [name for name in LayerMeasures.__dataclass_fields__]
        if self.measures:
            arrays["measures"] = np.array(
                [[[[getattr(m, name) for name in names] for m in h] for h in q] for q in self.measures]
            )
        part_file = folder / f"{_STATE}.part"
        with part_file.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(part_file, folder / _STATE)

    @staticmethod
    def load(folder: Path) -> Study | None:
        """What a run has left in its folder; None where there is nothing.

        Raises:
            InputError: a file that holds something else.
        """
        path = folder / _STATE
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                found = Study(about["hash"], about["seconds"], clips=about["clips"])
                for number, category in enumerate(about["categories"]):
                    found.profiles[category] = Profiles.of(found.seconds, arrays, str(number))
                found.asked = [Asked(**row) for row in about["asked"]]
                measures = arrays["measures"] if found.asked else ()
                found.measures = [[[LayerMeasures(*m) for m in h] for h in q] for q in measures]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(f"{path}: not the state of an investigation: {error}") from error
        return found
