"""A backbone with a few frames of noise, and what transformers makes of the same frames."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hermes.attention.as_found import Found
from hermes.backbone import Backbone, FrameShape, StockPrompt, self_check, stock_processor
from hermes.config import build
from hermes.decoding.generation import GenerationConfig
from hermes.errors import UnsupportedModelError
from hermes.policy import MemoryPolicy
from hermes.session.session import StreamSession
from hermes.testing.trial import fingerprint
from hermes.tokens import Chunk, VideoState
from hermes.video import Caption, Frame

__all__ = ["BackboneTrial", "Skipped"]

QUESTION = "What is the person doing now?"
_FPS = 2.0
_ENCODERS = ("get_video_features", "get_image_features")


class Skipped(Exception):  # noqa: N818
    """A clause that cannot be looked at here, and why."""


class BackboneTrial:
    """A backbone, frames of noise, and the inputs with which transformers runs its model.

    Args:
        backbone: a loaded model family.
        processor: of transformers; one made from the backbone's settings by default.
    """

    def __init__(self, backbone: Backbone, processor: Any = None) -> None:
        self.backbone = backbone
        self.given = processor
        self.found = fingerprint(backbone.model)

    @cached_property
    def native(self) -> Backbone:
        """The same backbone with the model's stock prompt and positions."""
        twin = copy.copy(self.backbone)
        vars(twin).pop("template_parts", None)
        twin.config = replace(self.backbone.config, layout="native")
        return twin

    @property
    def group(self) -> int:
        """Frames that are encoded together."""
        return self.backbone.frames_per_group

    @cached_property
    def differences(self) -> dict[str, float]:
        """What the self-check finds."""
        with self.apart():
            return self_check(self.backbone)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Call the model outside of a session; what that leaves on it is taken away."""
        found = Found(self.backbone.model)
        try:
            with torch.no_grad():
                yield
        finally:
            found.restore()

    def frames(self, groups: int = 4, seed: int = 0) -> list[Frame]:
        """Groups of frames of noise; of a text model, texts of random figures."""
        random, count = np.random.default_rng(seed), groups * self.group
        if not self.backbone.sees:
            figures = random.integers(0, 10, (count, 9))
            return [Caption(i / _FPS, i, text="".join(map(str, row))) for i, row in enumerate(figures)]
        images = [random.integers(0, 256, (84, 112, 3), dtype=np.uint8) for _ in range(count)]
        return [Frame(image, index / _FPS, index) for index, image in enumerate(images)]

    def chunks(
        self, backbone: Backbone, groups: int = 4, cuts: Sequence[int] = ()
    ) -> tuple[list[Chunk], VideoState]:
        """The prefix and the frames, cut behind these groups, and the state that is left."""
        state, frames = VideoState(), self.frames(groups)
        chunks, bounds = [backbone.prefix(state)], [0, *cuts, groups]
        with self.apart():
            for start, stop in pairwise(bounds):
                own = frames[start * self.group : stop * self.group]
                chunks.append(backbone.video(own, state, fps=_FPS))
        return chunks, state

    def session(self, policy: str = "full", backbone: Backbone | None = None) -> StreamSession:
        """A session on it with short greedy answers; a bounded policy keeps half of the frames."""
        settings: dict[str, Any] = {"name": policy}
        if policy != "full":
            settings["budget"] = max(sum(map(len, self.chunks(self.backbone)[0][1:])) // 2, self._least)
        return StreamSession(
            backbone or self.backbone,
            build(MemoryPolicy, settings, "policy"),  # type: ignore[type-abstract]
            fps=_FPS,
            chunk_frames=self.group,
            generation=GenerationConfig(max_new_tokens=4, repetition_penalty=1),
        )

    @property
    def _least(self) -> int:
        return len(self.chunks(self.backbone, 1)[0][1])

    @contextmanager
    def encoding(self) -> Iterator[list[dict[str, Any]]]:
        """What the model's encoder is given inside, call by call."""
        calls: list[dict[str, Any]] = []
        outer = self.backbone.model
        for part in (getattr(outer, "model", None), outer):
            names = [name for name in _ENCODERS if hasattr(part, name)]
            if names:
                break
        else:
            raise Skipped("the model has neither get_video_features nor get_image_features")
        before = {name: vars(part).get(name) for name in names}
        inner = {name: getattr(part, name) for name in names}
        running: list[int] = []
        for name in names:
            vars(part)[name] = _heard(inner[name], calls, running)
        try:
            yield calls
        finally:
            for name, was in before.items():
                del vars(part)[name]
                if was is not None:
                    vars(part)[name] = was

    @cached_property
    def stock(self) -> dict[str, Tensor]:
        """The inputs of transformers' ``generate`` for the frames and the question, on our pixels."""
        backbone, frames = self.native, self.frames()
        if not backbone.sees:
            raise Skipped("it reads texts, for which transformers has no processor")
        if "video_compression_mask" in inspect.signature(backbone.model.forward).parameters:
            raise Skipped("its frames have different numbers of tokens, which follow from the pixels")
        with self.apart(), self.encoding() as calls:
            backbone.video(frames, VideoState(), fps=_FPS)
        if len(calls) != 1:
            raise Skipped(f"the encoder is called {len(calls)} times for one chunk")
        processor = self.given if self.given is not None else self._processor
        prompt = StockPrompt(processor, backbone.name)
        try:
            recipe = backbone.recipe
        except UnsupportedModelError as error:
            raise Skipped(str(error)) from error
        shape = FrameShape(*recipe.target(84, 112), recipe.patch_size, recipe.merge_size)
        times = [[f.time for f in frames[i : i + self.group]] for i in range(0, len(frames), self.group)]
        parts = backbone.native_parts
        try:
            video = prompt.whole(times, shape)
        except UnsupportedModelError as error:
            raise Skipped(str(error)) from error
        ids = backbone.encode(f"{parts.prefix}{video}{parts.before}{QUESTION}{parts.after}")
        seen = dict(calls[0])
        if "pixel_values_videos" in inspect.signature(backbone.model.forward).parameters:
            # An encoder of pictures may serve videos, too.
            seen = {"pixel_values_videos" if name == "pixel_values" else name: x for name, x in seen.items()}
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **seen}
        if backbone.axes > 1:
            # Those of the older families are made of the processor's own token.
            token = backbone.tokenizer.convert_tokens_to_ids(str(processor.video_token))
            make = getattr(backbone, "processor", None) and processor.create_mm_token_type_ids
            inputs["mm_token_type_ids"] = (
                torch.tensor(make(ids.tolist())) if make else (ids == token).long() * 2
            )
        if "second_per_grid_ts" in inspect.signature(backbone.model.forward).parameters:
            inputs["second_per_grid_ts"] = torch.tensor([self.group / _FPS])
        return inputs

    @cached_property
    def _processor(self) -> Any:
        backbone = self.backbone
        own = getattr(backbone, "processor", None)
        if own is not None:
            return own
        recipe = {"merge_size": backbone.recipe.merge_size, "temporal_patch_size": self.group}
        settings = {**recipe, **backbone.pixel_defaults, **backbone.preprocessor}
        whole = backbone.model.config
        kind, vision = whole.model_type, getattr(whole, "vision_config", None)
        own = {"vision_feature_select_strategy": getattr(whole, "vision_feature_select_strategy", None)}
        size, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
        if isinstance(size, int) and isinstance(patch, int):
            own["num_image_tokens"] = (size // patch) ** 2
        own |= backbone.processor_settings
        template = backbone.chat_template or backbone.default_template
        try:
            return stock_processor(kind, backbone.tokenizer, settings, own, template)
        except UnsupportedModelError as error:
            raise Skipped(str(error)) from error

    @property
    def pixel_processor(self) -> Any:
        """What prepares pixels in transformers.

        Raises:
            Skipped: it cannot be had.
        """
        if not self.backbone.sees:
            raise Skipped("it reads texts")
        if self.given is not None and callable(getattr(self.given, "video_processor", None)):
            return self.given.video_processor
        if not self.backbone.config.checkpoint:
            raise Skipped("no checkpoint is named, and no processor given")
        from transformers import AutoProcessor

        try:
            return AutoProcessor.from_pretrained(self.backbone.config.checkpoint).video_processor
        except Exception as error:
            first = str(error).strip().partition("\n")[0]
            raise Skipped(f"the checkpoint's processor cannot be loaded here: {first}") from error


def _heard(inner: Any, calls: list[dict[str, Any]], running: list[int]) -> Any:
    signature = inspect.signature(inner)

    def encoder(*args: Any, **given: Any) -> Any:
        bound = signature.bind(*args, **given).arguments
        named = {**bound, **bound.get("kwargs", {})}
        # One encoder may call the other.
        if not running:
            calls.append({name: x for name, x in named.items() if isinstance(x, Tensor)})
        running.append(1)
        try:
            return inner(*args, **given)
        finally:
            running.pop()

    # What asks for its parameters sees the encoder's.
    encoder.__signature__ = signature  # type: ignore[attr-defined]
    return encoder
