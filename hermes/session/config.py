"""Everything a run can be told, in one documented tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hermes.attention import AttentionProbe
from hermes.backbone import BackboneConfig, backbone_fallback
from hermes.config import Fallback, Settings, compose, setting
from hermes.decoding.generation import GenerationConfig
from hermes.dialogue import QuestionConfig
from hermes.memory import MemoryConfig
from hermes.policy import MemoryPolicy
from hermes.session.session import Callback
from hermes.video import VideoConfig


@dataclass
class StreamConfig(Settings):
    """How the stream is cut (settings ``stream.*``)."""

    chunk_frames: int = setting(
        16, help="frames encoded at once; a question cuts a chunk short", unit="frames", ge=1
    )


@dataclass
class RunConfig(Settings):
    """The settings of one run; every one is ``key=value`` on the command line."""

    policy: MemoryPolicy = setting(help="the memory policy")
    backbone: BackboneConfig = setting(BackboneConfig(), help="the model")
    video: VideoConfig = setting(VideoConfig(), help="how frames are read")
    stream: StreamConfig = setting(StreamConfig(), help="how the stream is cut")
    memory: MemoryConfig = setting(MemoryConfig(), help="how keys are stored")
    generation: GenerationConfig = setting(GenerationConfig(), help="how answers are generated")
    question: QuestionConfig = setting(QuestionConfig(), help="how long a question may be", later=True)
    callbacks: dict[str, Callback] = setting({}, help="what watches the session, by a name of your own")
    probe: AttentionProbe | None = setting(None, help="what watches attention")
    seed: int = setting(0, help="of policies and sampling", ge=0)
    threads: int | None = setting(None, help="CPU threads; default: PyTorch's choice", ge=1)


DEFAULTS: Mapping[str, str] = {"backbone": "embedded", "policy": "hermes"}


FALLBACKS: Mapping[str, Fallback] = {"backbone": backbone_fallback}


def run_config(
    overrides: Sequence[str] = (),
    config_dirs: Sequence[Path] = (),
    chosen: Mapping[str, object] | None = None,
) -> RunConfig:
    """The settings of a run from ``key=value`` overrides on the defaults.

    Args:
        overrides, config_dirs, chosen: as of :func:`hermes.config.compose`.

    Raises:
        SettingError: an unknown setting, a wrong type or value, an unknown policy or backbone.

    >>> run_config(["policy=fifo", "policy.budget=64"]).policy.budget
    64
    """
    return compose(
        DEFAULTS, overrides, RunConfig, chosen=chosen, config_dirs=config_dirs, fallbacks=FALLBACKS
    )
