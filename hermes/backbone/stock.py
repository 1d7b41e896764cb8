"""The prompt of a checkpoint's own processor, asked one frame at a time; torchvision is not needed for it."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.video_utils import VideoMetadata

from hermes.errors import UnsupportedModelError

__all__ = ["FramePrompt", "FrameShape", "StockPrompt", "stock_processor"]

# Times are handed over as frame numbers at this rate, so that every microsecond of a stream can be said.
_RATE = 1_000_000


def stock_processor(
    model_type: str,
    tokenizer: Any,
    settings: Mapping[str, Any],
    own: Mapping[str, Any],
    chat_template: str | None = None,
) -> Any:
    """The processor that transformers has for a model type, with stand-ins for what prepares pixels.

    Those need torchvision; the prompt needs only their settings.

    Args:
        settings: of the video preprocessor.
        own: of the processor itself (``processor_config.json``).

    Raises:
        UnsupportedModelError: transformers has no processor for this type, or it needs more than is given.
    """
    # A part of a model, such as a thinker, has the processor of the whole.
    whole = model_type_to_module_name(model_type)
    # Imported here: commands that only list and show do without transformers.
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES.get(model_type) or PROCESSOR_MAPPING_NAMES.get(whole)
    kind = getattr(transformers, name, None) if name else None
    if not isinstance(kind, type) or not hasattr(kind, "replace_video_token"):
        raise UnsupportedModelError(
            f"model type {model_type!r}: the installed transformers ({transformers.__version__}) has no "
            "processor for it that says how a video is written into the prompt"
        )
    standing: Any = type(
        kind.__name__, (kind,), {"check_argument_for_proper_class": lambda self, name, given: None}
    )
    asked = inspect.signature(kind).parameters
    parts = {
        key: SimpleNamespace(**settings)
        for key in ("image_processor", "video_processor", "feature_extractor")
        if key in asked
    }
    given = {key: value for key, value in own.items() if key in asked and key not in parts}
    try:
        return standing(**parts, **{**given, "tokenizer": tokenizer, "chat_template": chat_template})
    except Exception as error:
        raise UnsupportedModelError(
            f"model type {model_type!r}: prompt: no processor can be made: {type(error).__name__}: {error}"
        ) from error


@dataclass(frozen=True)
class FrameShape:
    """A frame as its processor has prepared it.

    Attributes:
        height, width: pixels.
        patch: pixels along one side of a patch.
        merge: patches along one side of a token.
    """

    height: int
    width: int
    patch: int
    merge: int


@dataclass(frozen=True)
class FramePrompt:
    """How the prompt writes one frame after another.

    Attributes:
        joiner: between two frames.
        numbered: whether frames are counted from 1 in the text.
    """

    joiner: str
    numbered: bool


class StockPrompt:
    """What a processor writes for single frames, or for groups of frames that are encoded together.

    Args:
        processor: of transformers, or as :func:`stock_processor` gives it.
        name: of the model, for errors.
    """

    def __init__(self, processor: Any, name: str) -> None:
        self.processor = processor
        self.name = name

    def whole(self, times: Sequence[Sequence[float]], shape: FrameShape, kept: Tensor | None = None) -> str:
        """What stands in the prompt for a video.

        Args:
            times: seconds at which the frames of each group were seen.
            kept: which of all tokens a family that drops some keeps; all by default.

        Raises:
            UnsupportedModelError: the processor asks for more than frames have to tell.
        """
        frames = [time for group in times for time in group]
        pixels = torch.empty(1, len(times), 3, shape.height, shape.width)
        grid = [len(times), shape.height // shape.patch, shape.width // shape.patch]
        numbers = [round(time * _RATE) for time in frames]
        metadata = VideoMetadata(total_num_frames=len(frames), fps=_RATE, frames_indices=numbers)
        if kept is None:
            kept = torch.ones(math.prod(grid) // shape.merge**2, dtype=torch.bool)
        inputs = {
            "video_compression_mask": kept,
            "pixel_values_videos": pixels,
            "pixel_values": pixels,
            "video_grid_thw": torch.tensor([grid]),
            # In tokens.
            "video_grids": torch.tensor([[grid[0], *(-(-side // shape.merge) for side in grid[1:])]]),
            "video_merge_sizes": torch.tensor([shape.merge]),
            "video_metadata": [metadata],
        }
        try:
            write = self.processor.replace_video_token
            options = inspect.signature(write).parameters.values()
            silent = any(option.kind == option.VAR_KEYWORD for option in options)
            text: str = write(inputs, video_idx=0, **({"load_audio_from_video": False} if silent else {}))
        except Exception as error:
            raise UnsupportedModelError(
                f"{self.name}: prompt: its processor asks for more than frames have to tell: "
                f"{type(error).__name__}: {error}"
            ) from error
        return text

    def plan(self, group: int, shape: FrameShape) -> FramePrompt:
        """How frames follow each other, found by writing one, two and twelve of them.

        Args:
            group: frames that are encoded together.

        Raises:
            UnsupportedModelError: a video is written otherwise than frame by frame, such as with an
                introduction that says how many there will be.
        """
        times = [[float(2 * at + step) for step in range(group)] for at in range(12)]

        def written(*numbers: int) -> str:
            return self.whole([times[number] for number in numbers], shape)

        first, second, both = written(0), written(1), written(0, 1)
        every = written(*range(12))
        for numbered in (False, True):
            after = _renumbered(first, 2) if numbered else second
            if after is None or not (both.startswith(first) and both.endswith(after)):
                continue
            joiner = both[len(first) : len(both) - len(after)]
            pieces = [_renumbered(first, at + 1) if numbered else written(at) for at in range(12)]
            if len(first) + len(joiner) + len(after) == len(both) and every == joiner.join(map(str, pieces)):
                return FramePrompt(joiner, numbered)
        raise UnsupportedModelError(
            f"{self.name}: prompt: its processor does not write a video frame by frame (it writes "
            f"{_short(both)!r} for two), so a stream cannot go on from chunk to chunk as it does"
        )

    def group(
        self,
        times: Sequence[float],
        number: int,
        plan: FramePrompt,
        shape: FrameShape,
        kept: Tensor | None = None,
    ) -> str:
        """What stands for one group, the joiner before it included; ``number`` counts groups from 0."""
        text = self.whole([times], shape, kept)
        if plan.numbered:
            text = _renumbered(text, number + 1) or text
        return (plan.joiner if number else "") + text


def _renumbered(text: str, number: int) -> str | None:
    """The text of frame 1 as that of another frame; None where no 1 stands in it."""
    found, count = re.subn(r"(?<!\d)1(?!\d)", str(number), text, count=1)
    return found if count else None


def _short(text: str) -> str:
    return re.sub(r"(<[^<>]+>)\1{3,}", r"\1...", text)[:200]
