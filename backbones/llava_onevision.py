"""LLaVA-OneVision: SigLIP frames pooled to a fixed square of tokens, a Qwen2 decoder, 1-D positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hermes.backbone import Backbone, prepare, visual_features
from hermes.dialogue import chatml
from hermes.tokens import Chunk, Provenance, VideoState
from hermes.video import Frame


class LlavaOnevision(Backbone):
    """LLaVA-OneVision (``llava-hf/llava-onevision-qwen2-*``), 196 tokens a frame as published.

    Source: arXiv 2601.14724, Sec. 4 (0.5 fps); the family is arXiv 2408.03326. ``stream``: a frame is its
    pooled patches and nothing else. ``native``: an image newline follows the whole video, as in the
    family's own prompt. Positions count tokens in both.
    """

    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    default_fps = 0.5
    video_marker = "<video>"
    default_template = chatml("<video>\n")
    pixel_defaults: ClassVar[Mapping[str, Any]] = {
        "video_processor_type": "LlavaOnevisionVideoProcessor",
        "size": {"height": 384, "width": 384},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }

    @property
    def side(self) -> int:
        """Tokens along one side of a frame, after pooling."""
        vision = self.model.config.vision_config
        side: int = math.ceil(vision.image_size // vision.patch_size / 2)
        return side

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens of one frame, whatever its size."""
        return self.side**2

    def video(self, frames: Sequence[Frame], state: VideoState, *, fps: float) -> Chunk:
        """Encode frames into a chunk of visual tokens and advance ``state``.

        Raises:
            InputError: frames of different sizes, or not uint8 RGB.
        """
        weight = next(self.model.model.vision_tower.parameters())
        pixels = prepare(frames, self.recipe, weight.device).to(weight.dtype)
        count = len(frames) * self.side**2
        with torch.no_grad():
            features = visual_features(self.model.get_video_features(pixels.unsqueeze(0)), count)
        tokens = Provenance.cat(
            [
                Provenance.visual(
                    first_id=state.next_id + i * self.side**2,
                    frame=frame.index,
                    time=frame.time,
                    rows=self.side,
                    cols=self.side,
                )
                for i, frame in enumerate(frames)
            ]
        )
        state.add(frames=len(frames), groups=len(frames), advance=count, tokens=count)
        return Chunk(
            embeds=features.to(self.device, self.dtype),
            positions=torch.arange(count, dtype=torch.float32, device=self.device).unsqueeze(0),
            advance=count,
            tokens=tokens,
            frames=len(frames),
        )

    def token_saliency(self, received: Float[Tensor, " patches"], chunk: Chunk) -> Float[Tensor, " n"]:
        """The patches' attention, pooled as their features are."""
        vision = self.model.config.vision_config
        grid = received.view(-1, 1, *[vision.image_size // vision.patch_size] * 2)
        return F.interpolate(grid, size=(self.side, self.side), mode="bilinear").flatten()

    def closing(self, state: VideoState) -> Float[Tensor, "1 n hidden"] | None:
        """The image newline that follows the whole video in the native layout, else None."""
        if self.config.layout == "stream" or not state.frames:
            return None
        newline: Tensor = self.model.model.image_newline
        return newline.detach().view(1, 1, -1).to(self.device, self.dtype)
