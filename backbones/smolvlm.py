"""SmolVLM2: square frames behind the minute and second at which they were seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from transformers.models.smolvlm import processing_smolvlm

from hermes.backbone import PixelRecipe, normalize, resize, stack
from hermes.dialogue import TemplateParts, split_template
from hermes.video import Frame

from .auto import Auto


class _Prompt:
    """What stands for frames in the prompt: the stock processor needs a package for English numerals."""

    video_token = "<video>"

    def __init__(self, tokenizer: Any, seats: int) -> None:
        self.image_token = str(getattr(tokenizer, "image_token", "<image>"))
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        around = getattr(tokenizer, "fake_image_token", "<fake_token_around_image>")
        begin = getattr(tokenizer, "global_image_token", "<global-img>")
        self.picture = f"{around}{begin}{self.image_token * seats}{around}"

    def replace_video_token(self, video_inputs: Mapping[str, Any], video_idx: int) -> str:
        """Frames one behind the other, without the introduction, which says how many they will be."""
        seconds = [int(time) for time in video_inputs["video_metadata"][video_idx].timestamps]
        return "".join(f"\nFrame from {s // 60:02d}:{s % 60:02d}:{self.picture}" for s in seconds)


class SmolVLM(Auto):
    """SmolVLM2 (``HuggingFaceTB/SmolVLM2-*-Video-Instruct`` and others), 1-D positions.

    Source: arXiv 2504.05299. Difference: the stock prompt begins with the number of frames and the length of
    the video, which a stream has not; both layouts leave this sentence out, and are the stock prompt's else.
    """

    model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)

    def stock(self) -> Any:
        """What writes frames into the prompt."""
        vision = self.model.config.vision_config
        seats = (vision.image_size // vision.patch_size) ** 2 // self.model.config.scale_factor**2
        return _Prompt(self.tokenizer, int(self.processor_settings.get("image_seq_len", seats)))

    def checkpoint_recipe(self) -> PixelRecipe:
        """What the checkpoint says of its frames: squares in the end."""
        edge = (self.preprocessor.get("max_image_size") or {}).get("longest_edge", 364)
        given = {key: value for key, value in self.preprocessor.items() if value is not None}
        square = {"size": {"height": edge, "width": edge}, "do_pad": False}
        return PixelRecipe.of({"resample": 1, **given, **square})

    def pictures(self, frames: Sequence[Frame]) -> Float[Tensor, "T 3 H W"]:
        """Frames resized by their longer edge, then to a square, and normalised."""
        images = stack(frames)
        sampling = self.preprocessor.get("video_sampling") or {}
        size = sampling.get("video_size") or self.preprocessor.get("size") or {}
        height, width = images.shape[-2:]
        if "longest_edge" in size:
            images = resize(images, _bounded(height, width, size["longest_edge"]), self.recipe.resample)
        images = resize(images, self.recipe.target(*images.shape[-2:]), self.recipe.resample)
        return normalize(images, self.recipe)

    @cached_property
    def native_parts(self) -> TemplateParts:
        """The template that the family has for videos, cut open; two line breaks follow the last frame."""
        parts = split_template(
            self.tokenizer,
            [processing_smolvlm.DEFAULT_CHAT_TEMPLATE],
            self.config.system_prompt,
            self.video_marker,
        )
        return parts._replace(before="\n\n" + parts.before)


def _bounded(height: int, width: int, edge: int) -> tuple[int, int]:
    """Height and width with the longer edge as given, the other even."""
    shape = width / height
    other = int(edge / shape) if width >= height else int(edge * shape)
    other = max(other + other % 2, 1)
    return (other, edge) if width >= height else (edge, other)
