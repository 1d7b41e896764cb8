"""Qwen3-VL: frame pairs behind written timestamps, interleaved M-RoPE, features fed to early layers too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.backbone import (
    Backbone,
    PixelRecipe,
    deepstack,
    per_frame_limits,
    prepare_patches,
    visual_features,
)
from hermes.dialogue import chatml
from hermes.tokens import Chunk, Provenance, TokenKind, VideoState
from hermes.video import Frame


class Qwen3VL(Backbone):
    """Qwen3-VL (``Qwen/Qwen3-VL-*-Instruct``), interleaved M-RoPE and deepstack features.

    Source: arXiv 2601.14724, Sec. 4 (2 fps); the family is arXiv 2511.21631. Difference: the paper's layout
    has nothing between frames, while here both layouts keep each pair's timestamp and vision markers, with
    which the model was trained (kind ``TIMESTAMP``), and its stock positions: text advances by 1, a pair by
    max(rows, columns). ``native`` also keeps the markers the chat template writes around the whole video.

    The checkpoint's pixel limits are those of a whole clip; what they are for one frame, which is what
    ``backbone.min_pixels`` and ``max_pixels`` limit: :func:`hermes.backbone.per_frame_limits`.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)
    axes = 3
    default_fps = 2.0
    frames_per_group = 2
    video_marker = "<|video_pad|>"
    frame_markers = ("<|vision_start|>", "<|vision_end|>")
    default_template = chatml("<|vision_start|><|video_pad|><|vision_end|>")
    pixel_defaults: ClassVar[Mapping[str, Any]] = {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "size": {"shortest_edge": 4096, "longest_edge": 24576 * 32 * 32},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "patch_size": 16,
    }

    def checkpoint_recipe(self) -> PixelRecipe:
        """The checkpoint's recipe with a clip's pixel limits turned into those of one frame."""
        return per_frame_limits(super().checkpoint_recipe(), "Qwen3VLVideoProcessor")

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens one frame of this size (pixels) costs at most: at 9 999 999 s (115 days), as times grow."""
        high, wide = self.recipe.target(height, width)
        stamp = self._stamp(9_999_999.0).shape[1] + 1
        tokens = (high // self.recipe.factor) * (wide // self.recipe.factor) + stamp
        return math.ceil(tokens / self.recipe.temporal_patch_size)

    def video(self, frames: Sequence[Frame], state: VideoState, *, fps: float) -> Chunk:
        """Encode frames into a chunk of timestamps and visual tokens and advance ``state``.

        Raises:
            InputError: frames of different sizes, not uint8 RGB, or too narrow.
        """
        merge, pair = self.recipe.merge_size, self.recipe.temporal_patch_size
        pixels, grid = prepare_patches(frames, self.recipe, next(self.model.model.visual.parameters()))
        groups, rows, cols = grid[0], grid[1] // merge, grid[2] // merge
        size, extent = rows * cols, max(rows, cols)
        with torch.no_grad():
            output = self.model.get_video_features(pixels, torch.tensor([grid], device=pixels.device))
        features = visual_features(output, groups * size).to(self.device, self.dtype)
        # [3, size]: t, row, column
        cells = torch.cartesian_prod(torch.zeros(1), torch.arange(float(rows)), torch.arange(float(cols))).T
        end = self.encode(self.frame_markers[1])
        embeds, positions, tokens = [], [], []
        clock, next_id = 0, state.next_id
        for i, visual in enumerate(features.view(groups, 1, size, -1)):
            first, last = frames[i * pair], frames[min(i * pair + pair, len(frames)) - 1]
            stamp = self._stamp((first.time + last.time) / 2)
            length = stamp.shape[1]
            embeds += [self.embed(stamp), visual, self.embed(end)]
            behind = clock + length + extent
            text = torch.arange(float(clock), clock + length).expand(3, -1)
            positions += [text, cells + (clock + length), torch.full((3, 1), float(behind))]
            mark: dict[str, Any] = {"kind": TokenKind.TIMESTAMP, "frame": first.index, "time": first.time}
            place: dict[str, Any] = {"frame": first.index, "time": first.time, "rows": rows, "cols": cols}
            tokens += [
                Provenance.text(length, first_id=next_id, **mark),
                Provenance.visual(first_id=next_id + length, **place),
                Provenance.text(1, first_id=next_id + length + size, **mark),
            ]
            clock = behind + 1
            next_id += length + size + 1
        state.add(frames=len(frames), groups=groups, advance=clock, tokens=next_id - state.next_id)
        provenance = Provenance.cat(tokens)
        seen = provenance.kind == int(TokenKind.VISUAL)
        return Chunk(
            embeds=torch.cat(embeds, dim=1),
            positions=torch.cat(positions, dim=1).to(self.device),
            advance=clock,
            tokens=provenance,
            frames=len(frames),
            deepstack=deepstack(output, seen, features),
        )

    def token_saliency(self, received: Float[Tensor, " patches"], chunk: Chunk) -> Float[Tensor, " n"]:
        """The mean of the patches merged into a token; timestamps have none."""
        out = received.new_zeros(len(chunk))
        seen = (chunk.tokens.kind == int(TokenKind.VISUAL)).to(out.device)
        out[seen] = received.view(-1, self.recipe.merge_size**2).mean(1)
        return out

    def _stamp(self, time: float) -> Int[Tensor, "1 n"]:
        """What precedes a pair seen at ``time`` seconds."""
        return self.encode(f"<{time:.1f} seconds>{self.frame_markers[0]}")
