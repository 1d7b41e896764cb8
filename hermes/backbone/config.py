"""The settings of a backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hermes.config import Settings, setting


@dataclass
class BackboneConfig(Settings):
    """Which checkpoint to load and how (settings ``backbone.*``)."""

    checkpoint: str = setting("", help="hub id, local folder, or GGUF file of a text decoder")
    family: str = setting("", help="registered name or dotted path of the family; default: by model_type")
    revision: str | None = setting(None, help="branch, tag or commit of a hub id")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", help="of the weights; auto: the checkpoint's own, float32 on a CPU"
    )
    device: str = setting("auto", help="such as cpu or cuda:1; auto: the first GPU, or else the CPU")
    device_map: Any = setting(None, help="spreads the model over devices, as in transformers")
    layout: Literal["stream", "native"] = setting(
        "stream", help="stream: the paper's prompt and positions; native: the model's stock ones"
    )
    fps: float | None = setting(None, help="frames sampled per second; default: the family's", gt=0)
    min_pixels: int | None = setting(None, help="least pixels of a resized frame; default: the model's", gt=0)
    max_pixels: int | None = setting(None, help="most pixels of a resized frame; default: the model's", gt=0)
    system_prompt: str | None = setting(
        "You are a helpful assistant.", help="system turn; null: whatever the chat template does without one"
    )
    control_tokens: bool = setting(
        False,
        help="obey control tokens, such as <|im_end|>, that questions and other texts spell out; else they "
        "are read as plain text",
        later=True,
    )
    written_times: bool = setting(
        True, help="of a text model: each text of the stream follows its time, as in [12.5 s]", later=True
    )
    seed: int = setting(0, help="of the weights, for the tiny random families")
