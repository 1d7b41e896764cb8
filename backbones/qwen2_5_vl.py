"""Qwen2.5-VL: frames in pairs, a token per 28x28 pixels, time, height and width as position axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hermes.backbone import Backbone, prepare_patches, visual_features
from hermes.dialogue import chatml
from hermes.tokens import Chunk, Provenance, VideoState
from hermes.video import Frame


class Qwen2_5VL(Backbone):  # noqa: N801
    """Qwen2.5-VL (``Qwen/Qwen2.5-VL-*-Instruct``), M-RoPE.

    Source: arXiv 2601.14724, Sec. 4 (1 fps) and App. E; the family is arXiv 2502.13923. ``stream``: no
    vision markers; every chunk starts at the clock with h = row, w = column and t = group * (frames of a
    group / fps) * tokens_per_second, a float that is never truncated; the clock then stands behind the
    largest of the three. ``native``: the installed transformers' positions, with which a whole video moves
    the clock by max(rows, columns) only: later chunks lie behind the clock.
    """

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)
    axes = 3
    default_fps = 1.0
    frames_per_group = 2
    native_evicts = False
    video_marker = "<|video_pad|>"
    frame_markers = ("<|vision_start|>", "<|vision_end|>")
    default_template = chatml("<|vision_start|><|video_pad|><|vision_end|>")
    pixel_defaults: ClassVar[Mapping[str, Any]] = {
        "video_processor_type": "Qwen2VLVideoProcessor",
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28},
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "patch_size": 14,
    }

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens one frame of this size (pixels) costs: half of its pair's, rounded up."""
        high, wide = self.recipe.target(height, width)
        tokens = (high // self.recipe.factor) * (wide // self.recipe.factor)
        return math.ceil(tokens / self.recipe.temporal_patch_size)

    def video(self, frames: Sequence[Frame], state: VideoState, *, fps: float) -> Chunk:
        """Encode frames into a chunk of visual tokens and advance ``state``.

        Raises:
            InputError: frames of different sizes, not uint8 RGB, or too narrow.
        """
        merge, pair = self.recipe.merge_size, self.recipe.temporal_patch_size
        pixels, grid = prepare_patches(frames, self.recipe, next(self.model.model.visual.parameters()))
        groups, rows, cols = grid[0], grid[1] // merge, grid[2] // merge
        count = groups * rows * cols
        with torch.no_grad():
            output = self.model.get_video_features(pixels, torch.tensor([grid], device=pixels.device))
        if self.config.layout == "native":
            times = self._stock_times(state.groups + groups, fps)[state.groups :]
            positions = self._positions(times, rows, cols) - state.advanced
            advance = max(rows, cols) if state.groups == 0 else 0
        else:
            positions = self.stream_positions(groups, rows, cols, fps=fps)
            advance = math.floor(positions.max().item()) + 1
        tokens, place = [], {"rows": rows, "cols": cols}
        for i, frame in enumerate(frames[::pair]):
            first_id = state.next_id + i * rows * cols
            tokens.append(Provenance.visual(first_id=first_id, frame=frame.index, time=frame.time, **place))
        state.add(frames=len(frames), groups=groups, advance=advance, tokens=count)
        return Chunk(
            embeds=visual_features(output, count).to(self.device, self.dtype),
            positions=positions.to(self.device),
            advance=advance,
            tokens=Provenance.cat(tokens),
            frames=len(frames),
        )

    def stream_positions(self, groups: int, rows: int, cols: int, *, fps: float) -> Float[Tensor, "3 n"]:
        """Time, height and width of a chunk's tokens, relative to the clock at which it starts."""
        rate = self.model.config.vision_config.tokens_per_second
        step = self.recipe.temporal_patch_size / fps * rate
        return self._positions(torch.arange(groups, dtype=torch.float64) * step, rows, cols)

    def token_saliency(self, received: Float[Tensor, " patches"], chunk: Chunk) -> Float[Tensor, " n"]:
        """The mean of the patches merged into a token, out of the encoder's order of windows."""
        vision, tokens = self.model.config.vision_config, chunk.tokens
        side = vision.window_size // vision.patch_size // vision.spatial_merge_size
        group = tokens.frame.unique_consecutive(return_inverse=True)[1]
        row, col = tokens.row, tokens.col
        keys = torch.stack((group, row // side, col // side, row % side, col % side), dim=-1).tolist()
        order = sorted(range(len(keys)), key=keys.__getitem__)
        merged = received.view(-1, vision.spatial_merge_size**2).mean(1)
        out = torch.empty_like(merged)
        out[torch.tensor(order, device=out.device)] = merged
        return out

    @staticmethod
    def _positions(times: Float[Tensor, " groups"], rows: int, cols: int) -> Float[Tensor, "3 n"]:
        grid = torch.cartesian_prod(times, torch.arange(rows).to(times), torch.arange(cols).to(times))
        return grid.T.float()

    def _stock_times(self, groups: int, fps: float) -> Float[Tensor, " groups"]:
        """Time positions of groups 0, 1, ... as the installed transformers counts them (versions differ)."""
        merge = self.recipe.merge_size
        ids = torch.zeros(1, groups, dtype=torch.int64)
        # One token a group shows the time axis; height and width are not needed.
        positions, _ = self.model.model.get_rope_index(
            ids,
            mm_token_type_ids=torch.full_like(ids, 2),
            video_grid_thw=torch.tensor([[groups, merge, merge]]),
            second_per_grid_ts=torch.tensor([self.recipe.temporal_patch_size / fps]),
        )
        times: Tensor = positions[0, 0].double()
        return times
