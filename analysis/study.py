"""Collecting: the questions of a benchmark, what each looks at, and what is kept of it on disk."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from hermes import Backbone, Callback, Chunk, StreamSession
from hermes.data.benchmark import Benchmark
from hermes.data.clips import TimedQuestion
from hermes.dialogue import GuidancePrompts
from hermes.errors import InputError, SettingError, did_you_mean
from hermes.evaluation.results.run_folder import claim
from hermes.evaluation.running.manifest import manifest
from hermes.evaluation.running.settings import settings_hash
from hermes.files import write_whole
from hermes.reading import parse_json, typed
from hermes.session.opening import session_from

from .mass import LayerMass
from .measures import LayerMeasures, anchors, measure, sensitivity
from .profiles import Profiles
from .question import ask_watched, read_watched
from .settings import PROMPTS, InvestigateConfig

__all__ = ["Asked", "Study", "collect", "sample_questions"]

_STATE = "state.npz"
_DAMAGED = (ValueError, LookupError, TypeError, OSError, EOFError, MemoryError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class Asked:
    """One question of a study.

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
    """What a run has seen so far, all of it small: no attention map is kept.

    Attributes:
        hash: of the settings and questions it was made with.
        seconds: width of a bin of age.
        asked: the questions.
        measures: of each question, ``[L, M]`` in the order of ``LayerMeasures``.
        heads: the same per KV head, ``[L, H, M]``; empty unless asked for.
        clips: videos that are done.
        pairs: of each of them, per layer (sensitivity to the question, agreement of anchors), ``[L, 2]``.
        profiles: running statistics by category.
    """

    hash: str
    seconds: float = 1.0
    asked: list[Asked] = field(default_factory=list)
    measures: list[Float[np.ndarray, "L M"]] = field(default_factory=list)
    heads: list[Float[np.ndarray, "L H M"]] = field(default_factory=list)
    clips: list[int] = field(default_factory=list)
    pairs: list[Float[np.ndarray, "L 2"]] = field(default_factory=list)
    profiles: dict[str, Profiles] = field(default_factory=dict)

    def add(self, clip: int, seen: Sequence[tuple[Asked, list[list[LayerMass]]]], per_head: bool) -> None:
        """Take in what the questions of one video looked at."""
        for asked, layers in seen:
            self.profiles.setdefault(asked.category, Profiles(self.seconds)).add(layers)
            self.asked.append(asked)
            self.measures.append(np.array([_measured(heads, asked.tokens_per_frame) for heads in layers]))
            if per_head:
                rows = [[measure(head, asked.tokens_per_frame) for head in heads] for heads in layers]
                self.heads.append(np.array(rows))
        if seen:
            self.pairs.append(_pairs(seen))
        self.clips.append(clip)

    def overall(self) -> Profiles:
        """The profiles of all categories together."""
        out = Profiles(self.seconds)
        for _, part in sorted(self.profiles.items()):
            out.merge(part)
        return out

    def layer(self, index: int, category: str | None = None) -> list[LayerMeasures]:
        """Measures of one layer, one a question."""
        pairs = zip(self.asked, self.measures, strict=True)
        return [LayerMeasures(*found[index]) for asked, found in pairs if category in (None, asked.category)]

    def videos(self, category: str | None = None) -> list[int]:
        """The video of each question."""
        return [asked.clip for asked in self.asked if category in (None, asked.category)]

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return len(self.measures[0])

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a frame, of most questions."""
        return int(np.bincount([asked.tokens_per_frame for asked in self.asked]).argmax())

    def save(self, folder: Path) -> None:
        """Replace the file in the run's folder in one step: an interruption leaves the one before.

        Raises:
            InputError: the file cannot be written.
        """
        about = {
            "hash": self.hash,
            "seconds": self.seconds,
            "clips": self.clips,
            "categories": list(self.profiles),
            "asked": [asdict(asked) for asked in self.asked],
        }
        arrays: dict[str, Any] = {"about": np.array(json.dumps(about))}
        for name in ("measures", "heads", "pairs"):
            arrays[name] = np.array(getattr(self, name))
        for number, part in enumerate(self.profiles.values()):
            arrays |= part.arrays(str(number))
        write_whole(folder / _STATE, lambda aside: np.savez(aside, **arrays))

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
                about = parse_json(str(arrays["about"]), str(path))
                asked = [typed(Asked, row, str(path)) for row in about["asked"]]
                kept: dict[str, Any] = {name: list(arrays[name]) for name in ("measures", "heads", "pairs")}
                found = Study(about["hash"], about["seconds"], asked, clips=about["clips"], **kept)
                for number, category in enumerate(about["categories"]):
                    found.profiles[category] = Profiles.of(found.seconds, arrays, str(number))
        except InputError:
            raise
        # What numpy and zipfile raise of a file that is damaged.
        except (*_DAMAGED, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path}: not the state of an investigation: {error}") from error
        return found


def _measured(heads: Sequence[LayerMass], tokens_per_frame: int) -> Float[np.ndarray, " M"]:
    """The measures of a layer: of the mean over its heads, or else the mean of its heads' measures."""
    whole = _together(heads)
    if whole is not None:
        return np.array(measure(whole, tokens_per_frame))
    mean: Float[np.ndarray, " M"] = np.mean([measure(head, tokens_per_frame) for head in heads], axis=0)
    return mean


def _together(heads: Sequence[LayerMass]) -> LayerMass | None:
    """The mean over heads; None where they hold different tokens."""
    first, *others = heads
    same = all(np.array_equal(first.frame, o.frame) and np.array_equal(first.patch, o.patch) for o in others)
    if not same:
        return None
    return LayerMass(np.mean([head.mass for head in heads], axis=0), first.frame, first.age, first.patch)


def _pairs(seen: Sequence[tuple[Asked, list[list[LayerMass]]]]) -> Float[np.ndarray, "L 2"]:
    """Sensitivity and agreement of a video's questions in each layer; NaN without two to compare."""
    times = [asked.time_s for asked, _ in seen]
    out = []
    for heads in zip(*(layers for _, layers in seen), strict=True):
        whole = [one for one in map(_together, heads) if one is not None]
        same = len(whole) == len(heads)
        sensitive = sensitivity(whole, times) if same else np.nan
        out.append([sensitive, anchors(whole).agreement if same else np.nan])
    return np.array(out)


def sample_questions(
    data: Benchmark, per_category: int, categories: Sequence[str] = (), seed: int = 0
) -> dict[int, list[int]]:
    """Questions drawn at random of each category, as numbers by video.

    Source: arXiv 2601.14724, Sec. 2 (100 of each length class of VideoMME).

    Args:
        data: the benchmark.
        per_category: of each; all of those that have fewer.
        categories: to sample; all by default.
        seed: of the draw; each category has random numbers of its own.

    Raises:
        SettingError: a category that the benchmark does not have.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for clip in range(len(data)):
        for number, question in enumerate(data.clip(clip).questions):
            places.setdefault(_category(question), []).append((clip, number))
    for name in categories:
        if name not in places:
            raise SettingError("categories", name, sorted(places), did_you_mean(name, places))
    chosen = []
    for name in sorted(categories or places):
        rng = np.random.default_rng((seed, *name.encode()))
        some = rng.permutation(len(places[name]))[:per_category]
        chosen += [places[name][i] for i in some]
    out: dict[int, list[int]] = {}
    for clip, number in sorted(chosen):
        out.setdefault(clip, []).append(number)
    return out


def _category(question: TimedQuestion) -> str:
    return str(question.extra.get("category") or question.task)


def collect(
    config: InvestigateConfig,
    folder: Path,
    *,
    backbone: Backbone | None = None,
    watcher: Callable[[int, int], None] | None = None,
    anyway: bool = False,
) -> Study:
    """Stream the videos of the sampled questions and see what each question looks at.

    Source: the procedure of arXiv 2601.14724, Sec. 2. The folder's state is replaced after each video: the
    same call goes on with what an interrupted one has left, and comes to the same.

    Args:
        config: everything; ``windows`` and ``output`` are the caller's.
        folder: of the run.
        backbone: a loaded one; by default that of ``config``.
        watcher: called with videos done and videos in all.
        anyway: go on with a run that other weights or versions began; the manifest tells it.

    Raises:
        SettingError: a wrong setting, or a folder that holds another run.
        InputError: a question that cannot be asked, a video that cannot be read, or no question at all.
    """
    chosen = sample_questions(config.data, config.per_category, config.categories, config.seed)
    if not chosen:
        raise InputError("no question to sample: look at the settings of the benchmark (data.*)")
    found, wanted = Study.load(folder), f"{settings_hash(config)} {config.data.fingerprint()}"
    study = found if found is not None and found.hash == wanted else Study(wanted)
    if set(chosen) <= set(study.clips):
        return study
    size = _FrameSize()
    with session_from(config, backbone) as session:
        claim(folder, manifest(config, session), anyway=anyway, count=lambda: len(study.asked))
        session.callbacks.append(size)
        study.seconds = session.backbone.frames_per_group / session.fps
        for done, (clip, numbers) in enumerate(chosen.items()):
            if watcher is not None:
                watcher(done, len(chosen))
            if clip not in study.clips:
                study.add(clip, list(_watch(session, config, clip, numbers, size)), config.per_head)
                study.save(folder)
    if watcher is not None:
        watcher(len(chosen), len(chosen))
    return study


class _FrameSize(Callback):
    """Notes how many tokens the newest frame took."""

    tokens = 0

    def on_encode_end(self, session: StreamSession, chunk: Chunk) -> None:
        frame = chunk.tokens.frame
        self.tokens = int((frame == frame[-1]).sum())


def _watch(
    session: StreamSession, config: InvestigateConfig, index: int, numbers: Sequence[int], size: _FrameSize
) -> Iterator[tuple[Asked, list[list[LayerMass]]]]:
    """Stream one video and look when the time of each question has come."""
    clip = config.data.clip(index)
    session.seed = int(np.random.SeedSequence((config.seed, index)).generate_state(1)[0])
    session.reset()
    due = [number for number in numbers if clip.questions[number].time is not None]
    rest = [number for number in numbers if clip.questions[number].time is None]
    times = [clip.questions[number].time or 0.0 for number in due]
    with config.data.frames(index, config.video, session.fps) as frames:
        watching = session.watch(frames, times)
        for number, _ in zip(due, watching, strict=False):
            yield _look(session, config, index, number, size)
        if rest:
            for _ in watching:
                pass
        for number in rest:
            yield _look(session, config, index, number, size)


def _look(
    session: StreamSession, config: InvestigateConfig, index: int, number: int, size: _FrameSize
) -> tuple[Asked, list[list[LayerMass]]]:
    question = config.data.clip(index).questions[number]
    try:
        if config.queries == "question":
            layers = ask_watched(session, question.question, question.choices, per_head=config.per_head)[1]
        else:
            prompts = session.policy.prompts_used() or GuidancePrompts()
            text = prompts.render(config.queries) if config.queries in PROMPTS else config.queries
            layers = read_watched(session, text, per_head=config.per_head)
    except InputError as error:
        raise InputError(f"video {index}, question {number}: {error}") from error
    frame = layers[0][0].video.frame
    # Frames that are encoded at the question alone were never seen as a chunk.
    tokens = size.tokens or int(np.bincount(frame).max(initial=1))
    return Asked(index, number, _category(question), session.now, tokens), layers
