"""One backbone for any video language model of transformers whose prompt writes frame after frame."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hermes.backbone import (
    Backbone,
    BackboneConfig,
    FramePrompt,
    FrameShape,
    PixelRecipe,
    StockPrompt,
    deepstack,
    load_checkpoint,
    per_frame_limits,
    prepare,
    prepare_patches,
    preprocessor_of,
    stock_preprocessor,
    stock_processor,
    visual_features,
)
from hermes.errors import HermesError, UnsupportedModelError
from hermes.tokens import Chunk, Provenance, TokenKind, VideoState
from hermes.video import Frame

# What the names of control tokens around pictures and videos have in them.
_OF_PICTURES = re.compile(r"vision|video|image|img|frame|vid", re.IGNORECASE)


class Auto(Backbone):
    """A model that no family file serves, through transformers' public calls alone.

    What is found out: the decoder (``get_decoder``), the vision features (``get_video_features``, or
    ``get_image_features`` frame by frame), what stands for a frame in the prompt (the processor's own
    ``replace_video_token``, a group of frames at a time, each with its own time), which tokens are visual,
    and positions: counted, or ``get_rope_index``. What cannot be found out is refused, naming the part.

    ``native`` is the model's own prompt. ``stream`` leaves out the markers that the chat template writes
    around the whole video; what belongs to each frame stays.

    Raises:
        UnsupportedModelError: the model has no vision features, or no processor that writes videos.
    """

    default_fps = 1.0
    layer_kinds = "told once loaded"

    def __init__(self, model: Any, tokenizer: Any, config: BackboneConfig, **settings: Any) -> None:
        super().__init__(model, tokenizer, config, **settings)
        self.core: Any = next(
            (part for part in (getattr(model, "model", None), model) if _encoder_of(part) is not None), None
        )
        if self.core is None:
            raise UnsupportedModelError(
                f"{self.name}: vision features: {type(model).__name__} has neither get_video_features nor "
                "get_image_features"
            )
        self.processor = self.stock()
        self.prompt = StockPrompt(self.processor, self.name)
        sections = (getattr(self.text_config, "rope_parameters", None) or {}).get("mrope_section")
        self.axes = 3 if sections and hasattr(self.core, "get_rope_index") else 1
        self.video_marker = str(self.processor.video_token)
        self.frames_per_group = self.recipe.temporal_patch_size if self._patches else 1

    def check(self) -> None:
        """Refuse what every backbone refuses, and a model whose parts do not go together on a first frame.

        Raises:
            UnsupportedModelError: names the part: pixels, prompt, vision features or positions.
        """
        super().check()
        _ = self.plan
        pair, images = self.frames_per_group, np.zeros((96, 160, 3), np.uint8)
        frames = [Frame(images, float(at), at) for at in range(2 * pair)]
        apart = VideoState()
        try:
            parts = [self.video(frames[:pair], apart, fps=1.0), self.video(frames[pair:], apart, fps=1.0)]
            whole = self.video(frames, VideoState(), fps=1.0)
        except (HermesError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"{self.name}: vision features: its encoder cannot be run on frames "
                f"({type(error).__name__}: {error})"
            ) from error
        # [A, n] and [A, n]
        cut = torch.cat((parts[0].positions, parts[1].positions + parts[0].advance), dim=1)
        if self.config.layout == "native" and not torch.equal(cut, whole.positions):
            raise UnsupportedModelError(
                f"{self.name}: positions: those of a video do not go on from frame to frame, so that chunks "
                "cannot have them. With backbone.layout=stream every chunk starts at the clock"
            )

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        """Load ``config.checkpoint``; what its files leave out is the stock processor's, where there is one.

        Raises:
            InputError: a bad setting or checkpoint, see :func:`hermes.backbone.load_checkpoint`.
            UnsupportedModelError: a part that cannot be found out.
        """
        parts = load_checkpoint(config)
        defaults = stock_preprocessor(config)
        return cls(
            config=config, **parts._replace(preprocessor={**defaults, **(parts.preprocessor or {})})._asdict()
        )

    @classmethod
    def stock_fps(cls, config: BackboneConfig) -> float:
        """The rate that the checkpoint's video preprocessor samples at, else the family's."""
        return _rate(preprocessor_of(config), cls.default_fps)

    @property
    def fps(self) -> float:
        """Frames sampled per second."""
        return self.config.fps or _rate(self.preprocessor, self.default_fps)

    def stock(self) -> Any:
        """The processor of this model type, or what stands for it: it writes frames into the prompt."""
        recipe = self.recipe
        # What the settings may leave out.
        sizes = {
            "patch_size": recipe.patch_size,
            "merge_size": recipe.merge_size,
            "temporal_patch_size": recipe.temporal_patch_size,
        }
        return stock_processor(
            self.model.config.model_type,
            self.tokenizer,
            {**sizes, **self.preprocessor},
            self.processor_settings,
            self.chat_template,
        )

    # -- pixels ---------------------------------------------------------------------------------------------

    @cached_property
    def _asked(self) -> frozenset[str]:
        """Names of what the model's encoder takes."""
        return frozenset(inspect.signature(_encoder_of(self.core)).parameters)

    @property
    def _patches(self) -> bool:
        """Whether frames are read as one row of patches with their grid, else as pictures."""
        return "video_grid_thw" in self._asked

    def checkpoint_recipe(self) -> PixelRecipe:
        """What the checkpoint says of its frames; limits of a whole clip become those of a frame.

        Raises:
            UnsupportedModelError: no size of a frame, or preprocessing that is not supported.
        """
        recipe = super().checkpoint_recipe()
        if not recipe.size:
            raise UnsupportedModelError(
                f"{self.name}: pixels: its video preprocessor's settings say no size of a frame ('size')"
            )
        return per_frame_limits(recipe, str(self.preprocessor.get("video_processor_type", "")))

    def _shape(self, height: int, width: int) -> FrameShape:
        high, wide = self.recipe.target(height, width)
        return FrameShape(high, wide, self.recipe.patch_size, self.recipe.merge_size)

    @cached_property
    @torch.no_grad()
    def _batched(self) -> int:
        """Leading axes before a picture's own that the encoder of pictures wants, besides the pictures'."""
        weight = next(p for p in self.core.parameters() if p.is_floating_point())
        high, wide = self.recipe.target(360, 640)
        trial, failure = torch.zeros(1, 3, high, wide, dtype=weight.dtype, device=weight.device), None
        for axes in (0, 1):
            try:
                _encoder_of(self.core)(pixel_values=trial[(None,) * axes])
            except Exception as error:
                failure = error
            else:
                return axes
        raise UnsupportedModelError(
            f"{self.name}: vision features: get_image_features takes no pictures of {high}x{wide} pixels: "
            f"{type(failure).__name__}: {failure}"
        )

    @torch.no_grad()
    def _seen(self, frames: Sequence[Frame], state: VideoState) -> tuple[Any, list[Tensor | None]]:
        """What the encoder makes of frames, and for each group which of its tokens are kept (None: all)."""
        encode: Any = _encoder_of(self.core)
        weight = next(p for p in self.core.parameters() if p.is_floating_point())
        if not self._patches:
            pixels = self.pictures(frames).to(weight)
            kept: list[Tensor | None] = [None] * len(frames)
            if "pixel_values_videos" in self._asked:
                return encode(pixel_values_videos=pixels.unsqueeze(0)), kept
            return encode(pixel_values=pixels[(None,) * self._batched]), kept
        pixels, grid = prepare_patches(frames, self.recipe, weight.new_empty(0, dtype=torch.float32))
        given = {
            "pixel_values_videos": pixels.to(weight.dtype),
            "video_grid_thw": torch.tensor([grid], device=pixels.device),
        }
        if "video_merge_sizes" in self._asked:
            given["video_merge_sizes"] = torch.tensor([self.recipe.merge_size], device=pixels.device)
        return encode(**given), self.kept(pixels, grid, state)

    def pictures(self, frames: Sequence[Frame]) -> Float[Tensor, "T 3 H W"]:
        """Frames as pictures, resized and normalised."""
        return prepare(frames, self.recipe)

    def kept(
        self, pixels: Float[Tensor, "n values"], grid: tuple[int, int, int], state: VideoState
    ) -> list[Tensor | None]:
        """For each group of frames which of its tokens are kept, in raster order; None where all are."""
        return [None] * grid[0]

    # -- the prompt -----------------------------------------------------------------------------------------

    @cached_property
    def plan(self) -> FramePrompt:
        """How frames follow each other in the prompt.

        Raises:
            UnsupportedModelError: not one by one.
        """
        return self.prompt.plan(self.frames_per_group, self._shape(360, 640))

    @cached_property
    def frame_markers(self) -> tuple[str, str]:  # type: ignore[override]
        """Control tokens that the chat template writes right around the whole video."""
        # Not those around a turn.
        names = [token for token in self._control_tokens.values() if _OF_PICTURES.search(token)]
        before, behind = self.native_parts.prefix, self.native_parts.before
        opening = max((name for name in names if before.endswith(name)), key=len, default="")
        return opening, max((name for name in names if behind.startswith(name)), key=len, default="")

    def _ids(
        self, times: Sequence[float], number: int, shape: FrameShape, kept: Tensor | None = None
    ) -> list[int]:
        text = self.prompt.group(times, number, self.plan, shape, kept)
        ids: list[int] = self.encode(text)[0].tolist()
        return ids

    def _placeholder(self, ids: Sequence[int], count: int) -> int:
        """The token that stands for one feature."""
        holders = (self.processor, self.model.config)
        names = ("video_token_id", "image_token_id", "video_token_index", "image_token_index")
        known = [getattr(holder, name, None) for name in names for holder in holders]
        found = [token for token in known if token is not None and ids.count(token) == count]
        if not found:
            held = {token: ids.count(token) for token in known if token is not None}
            raise UnsupportedModelError(
                f"{self.name}: vision features: the encoder gives {count} for a frame, and the prompt has "
                f"room for {max(held.values(), default=0)}"
            )
        return int(found[0])

    # -- chunks ---------------------------------------------------------------------------------------------

    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens one frame of this size (pixels) costs: its share of a group, at 9 999 999 s (115 days)."""
        times = [9_999_999.0] * self.frames_per_group
        ids = self._ids(times, 999_999, self._shape(height, width))
        return math.ceil(len(ids) / self.frames_per_group)

    def video(self, frames: Sequence[Frame], state: VideoState, *, fps: float) -> Chunk:
        """Encode frames into a chunk of frames as the prompt writes them and advance ``state``.

        Raises:
            InputError: frames of different sizes, not uint8 RGB, or too narrow.
            UnsupportedModelError: features and prompt do not fit each other.
        """
        output, kept = self._seen(frames, state)
        shape, pair, groups = self._shape(*frames[0].image.shape[:2]), self.frames_per_group, len(kept)
        features = visual_features(output).to(self.device, self.dtype)
        size = features.shape[1] // groups
        if any(mask is not None for mask in kept):
            every = [torch.ones(size, dtype=torch.bool) if mask is None else mask.cpu() for mask in kept]
            features = features[:, torch.cat(every).to(features.device)]
        ids, tables, visual = list[int](), [], []
        for at, mask in enumerate(kept):
            own = frames[at * pair : at * pair + pair]
            # An incomplete group is completed by doubling its last frame.
            times = [frame.time for frame in [*own, *[own[-1]] * (pair - len(own))]]
            group = self._ids(times, state.groups + at, shape, None if mask is None else mask.cpu())
            count = size if mask is None else int(mask.sum())
            seen = torch.tensor(group) == self._placeholder(group, count)
            first = state.next_id + len(ids)
            tables.append(_provenance(seen, own[0], first, self._rows(size, shape), mask))
            ids += group
            visual.append(seen)
        where = torch.cat(visual)
        written = torch.tensor([ids], device=self.device)
        embeds = self.embed(written).clone()
        embeds[:, where.to(embeds.device)] = features
        positions = self._positions(written, where, groups, shape)
        advance = int(positions.max()) + 1
        state.add(frames=len(frames), groups=groups, advance=advance, tokens=len(ids))
        return Chunk(
            embeds=embeds,
            positions=positions.to(self.device),
            advance=advance,
            tokens=Provenance.cat(tables),
            frames=len(frames),
            deepstack=deepstack(output, where, features),
        )

    @staticmethod
    def _rows(size: int, shape: FrameShape) -> tuple[int, int]:
        """Rows and columns of a frame's tokens."""
        side = shape.patch * shape.merge
        rows, cols = shape.height // side, shape.width // side
        if rows * cols == size:
            return rows, cols
        square = math.isqrt(size)
        return (square, square) if square**2 == size else (1, size)

    def _positions(
        self, ids: Int[Tensor, "1 n"], visual: Tensor, groups: int, shape: FrameShape
    ) -> Float[Tensor, "A n"]:
        """Positions of a chunk's tokens, from 0."""
        if self.axes == 1:
            return torch.arange(ids.shape[1], dtype=torch.float32)[None]
        core: Any = self.core
        # Between the markers of the whole video, by which some models know one.
        opening, ending = (self.encode(marker)[0].tolist() for marker in self.frame_markers)
        before, behind = len(opening), len(ending)
        inside = torch.tensor([[*opening, *ids[0].tolist(), *ending]])
        seen = F.pad(visual.cpu().long(), (before, behind))
        seconds = torch.tensor([self.frames_per_group / self.fps])
        offered = {
            "mm_token_type_ids": 2 * seen[None],
            "video_grid_thw": torch.tensor(
                [[groups, shape.height // shape.patch, shape.width // shape.patch]]
            ),
            "second_per_grid_ts": seconds,
            "second_per_grids": seconds,
        }
        try:
            asked = inspect.signature(core.get_rope_index).parameters
            positions, _ = core.get_rope_index(inside, **{k: v for k, v in offered.items() if k in asked})
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise UnsupportedModelError(
                f"{self.name}: positions: {type(core).__name__}.get_rope_index asks for more than a frame's "
                f"tokens and grid ({type(error).__name__}: {error})"
            ) from error
        found: Tensor = positions[:, 0, before : inside.shape[1] - behind].float()
        return found - found.min()


def _rate(preprocessor: Mapping[str, Any], default: float) -> float:
    """Frames per second that a preprocessor samples."""
    found = preprocessor.get("fps")
    return float(found) if isinstance(found, int | float) and 0 < found < math.inf else default


def _encoder_of(core: Any) -> Any:
    """What encodes frames: a video, or else pictures."""
    return getattr(core, "get_video_features", None) or getattr(core, "get_image_features", None)


def _provenance(
    seen: Tensor, frame: Frame, first_id: int, grid: tuple[int, int], kept: Tensor | None
) -> Provenance:
    """Origins of a group's tokens: visual ones in raster order, what is written around them of that time."""
    mark: dict[str, Any] = {"kind": TokenKind.TIMESTAMP, "frame": frame.index, "time": frame.time}
    table = Provenance.text(len(seen), first_id=first_id, **mark).table
    place = Provenance.visual(
        first_id=0, frame=frame.index, time=frame.time, rows=grid[0], cols=grid[1]
    ).table
    # All but the ids, which count every token.
    table[1:, seen] = place[1:] if kept is None else place[1:, kept.cpu()]
    return Provenance(table)
