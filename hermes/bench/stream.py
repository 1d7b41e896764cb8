"""The measurement of a stream: its settings, its records after so many frames, and their plot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hermes.bench.records import Record, Recorder, frames_of
from hermes.config import Settings, compose, config_hash, setting
from hermes.errors import SettingError
from hermes.machine.device import peak_memory_bytes, synchronize
from hermes.pages.styles import BLUE, save_figure
from hermes.pages.text import in_figure
from hermes.session.config import DEFAULTS, FALLBACKS, RunConfig
from hermes.session.opening import session_from
from hermes.session.session import StreamSession
from hermes.video import Frame

# arXiv 2601.14724, Table 3 and Fig. 4: LLaVA-OneVision-7B, budget 4 000, one A800; 16 to 512 frames.
PAPER = {"ttft": "27-29 ms", "tpot": "23.6-24.5 ms", "peak_memory": "16.5-17.7 GB"}
# Their model's shape and budget, as records state them.
_PAPER_SHAPE, _PAPER_BUDGET = "llava_onevision of 28 layers, width 3584", "budget 4000"


@dataclass
class MeasureConfig(Settings):
    """What ``hermes bench`` measures (settings ``bench.*``).

    Raises:
        SettingError: numbers of frames that do not ascend.
    """

    frames: list[int] = setting(
        [16, 64, 256, 512, 4096], help="measure after so many frames, ascending", unit="frames", ge=1
    )
    rounds: int = setting(5, help="questions asked after each", ge=1)
    size: tuple[int, int] = setting((384, 384), help="height and width of the random frames", unit="px", ge=1)

    def __post_init__(self) -> None:
        if not self.frames or self.frames != sorted(set(self.frames)):
            raise SettingError("frames", self.frames, "numbers of frames that ascend, such as [16, 64]")


@dataclass(kw_only=True)
class BenchConfig(RunConfig):
    """The settings of ``hermes bench``: those of a run, and what is measured."""

    bench: MeasureConfig = setting(MeasureConfig(), help="what is measured")


def bench_config(overrides: Sequence[str] = (), config_dirs: Sequence[Path] = ()) -> BenchConfig:
    """The settings of a measurement from ``key=value`` overrides on the defaults.

    Raises:
        SettingError: an unknown setting, a wrong type or value, an unknown policy or backbone.

    >>> bench_config(["bench.frames=[8, 16]"]).bench.frames
    [8, 16]
    """
    return compose(DEFAULTS, overrides, BenchConfig, config_dirs=config_dirs, fallbacks=FALLBACKS)


def bench_identity(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> tuple[str, str]:
    """What makes two measurements the same: the hash of all their settings; no judge."""
    return config_hash(bench_config(overrides, config_dirs)), ""


def measure(overrides: Sequence[str]) -> list[Record]:
    """Measure one stream of random frames; raises as :func:`bench_config`."""
    config = bench_config(overrides)
    about = config.bench
    with session_from(config) as session:
        return list(stream_records(session, about.frames, size=about.size, rounds=about.rounds))


def beside_paper(record: Record, *, budget: bool = True) -> bool:
    """Whether a record may stand beside the paper's figures: of the same shape of model.

    Args:
        record: of a stream.
        budget: the memory must have the paper's budget, too.

    >>> from hermes.bench import Recorder
    >>> shape = "16 frames, budget 4000, chunk 8, llava_onevision of {} layers, width {}"
    >>> paper, small = shape.format(28, 3584), shape.format(10, 64)
    >>> [beside_paper(Recorder("cpu").record("ttft", "", x, "", [1.0], unit="ms")) for x in (paper, small)]
    [True, False]
    """
    same = not budget or f", {_PAPER_BUDGET}," in record.shape
    return same and record.shape.endswith(_PAPER_SHAPE)


def plot_stream(path: Path, records: Sequence[Record]) -> None:
    """One panel an operation, against the number of frames."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(record.operation for record in records))
    figure = Figure(figsize=(3 * len(names), 3), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        mine = [record for record in records if record.operation == name]
        draw_stream(panel, mine, color=BLUE, marker="o")
        panel.set(title=in_figure(name), ylim=(0, None))
    save_figure(figure, path)


def draw_stream(panel: Any, records: Sequence[Record], **style: Any) -> None:
    """Medians and deciles of one operation over the frames, as a line on a matplotlib axes."""
    frames = [frames_of(record) for record in records]
    spread = [[r.median - r.low for r in records], [r.high - r.median for r in records]]
    panel.errorbar(frames, [r.median for r in records], yerr=spread, capsize=2, elinewidth=0.8, **style)
    panel.set_xscale("log", base=2)
    panel.set_xticks(frames, [str(count) for count in frames], fontsize="small")
    panel.set(xlabel="frames", ylabel=records[0].unit)


def stream_records(
    session: StreamSession, counts: Sequence[int], *, size: tuple[int, int], rounds: int
) -> Iterator[Record]:
    """Measure one stream after each of ``counts`` frames.

    Source: the quantities of arXiv 2601.14724, Table 3, and encoding, compression and the bytes of the memory
    besides. Compression is timed apart from encoding, on the device's own clock. Peak memory is that of the
    device, or on a CPU that of the process, libraries and weights included.

    Args:
        session: one that takes in random frames; first chunks warm it up and are forgotten.
        counts: numbers of frames, ascending.
        size: height and width of the frames, pixels.
        rounds: questions asked after each.
    """
    device = session.backbone.device
    recorder = Recorder(device)
    dtype, policy = str(session.backbone.dtype), type(session.policy).__name__
    kind, width = session.backbone.model.config.model_type, session.backbone.text_config.hidden_size
    model = f"{kind} of {session.backbone.num_layers} layers, width {width}"
    encode: list[float] = []
    compress: list[float] = []
    rng, fed, chunk = np.random.default_rng(0), 0, session.chunk_frames
    # Made once: drawing pixels is not what is measured.
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for _ in range(chunk)]
    _warm_up(session, pictures)
    session.reset()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for count in counts:
        encode.clear()
        compress.clear()
        while fed < count:
            frames = [
                Frame(pictures[i], (fed + i) / session.fps, fed + i) for i in range(min(chunk, count - fed))
            ]
            stats = session.stats()
            before = stats.compress_ms
            synchronize(device)
            started = time.perf_counter()
            session.feed(frames)
            session.flush()
            synchronize(device)
            seconds = time.perf_counter() - started
            spent = session.stats().compress_ms - before
            compress.append(spent)
            encode.append(len(frames) / max(seconds - spent / 1e3, 1e-9))
            fed += len(frames)
        answers = [session.ask("What is happening now?") for _ in range(rounds + 1)][1:]
        session.context.history.clear()
        shape = f"{count} frames, budget {getattr(session.policy, 'budget', 0)}, chunk {chunk}, {model}"
        tpot = [answer.tpot_ms for answer in answers if answer.tpot_ms is not None]
        measured = [("encode", encode, "frames/s"), ("compress", compress, "ms")]
        measured.append(("ttft", [answer.ttft_ms for answer in answers], "ms"))
        if tpot:
            measured.append(("tpot", tpot, "ms"))
        measured.append(("memory", [session.memory.memory_bytes / 1e6], "MB"))
        kinds = session.memory.bytes_by_kind()
        if len(kinds) > 1:
            measured += [(f"memory_{kind}", [size / 1e6], "MB") for kind, size in kinds.items()]
        measured.append(("peak_memory", [peak_memory_bytes(device) / 1e9], "GB"))
        for operation, values, unit in measured:
            yield recorder.record(operation, policy, shape, dtype, values, unit=unit)


def _warm_up(session: StreamSession, pictures: Sequence[Any]) -> None:
    """One chunk; where steps are recorded, as many as that takes once the memory is full."""
    run, steady, lengths = session.execution, 0, list[int]()
    for number in range(64 if run.mode == "compile" else 1):
        first = number * len(pictures)
        session.feed(Frame(picture, i / session.fps, i) for i, picture in enumerate(pictures, first))
        steady = steady + 1 if session.memory.lengths == lengths else 0
        lengths = session.memory.lengths
        if steady == run.prefills.patience:
            break
