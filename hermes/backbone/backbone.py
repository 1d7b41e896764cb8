"""What a model family must say about itself, so that everything else needs to know no family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hermes.backbone.blocks import block_masks
from hermes.backbone.checkpoint import load_checkpoint
from hermes.backbone.config import BackboneConfig
from hermes.backbone.layer_specs import layer_specs
from hermes.backbone.per_layer import per_layer_inputs
from hermes.backbone.pixels import PixelRecipe
from hermes.backbone.projections import Projections
from hermes.backbone.rotary import read_rotary
from hermes.backbone.rotation import restore_rotation
from hermes.backbone.wording import Wording
from hermes.backbone.wrapping import check_model, checkpoint_of, config_of
from hermes.errors import HermesError, UnsupportedModelError
from hermes.memory import KVMemory, LayerSpec, MemoryConfig, describe_layers
from hermes.tokens import Chunk, Rotary, TokenKind, VideoState
from hermes.video import Frame

__all__ = ["Backbone", "visual_features"]


class Backbone(Wording):
    """One model family: pixels to chunks, the chat template, position axes and the rotary embedding.

    A family is one file that subclasses this, registered under the entry point group
    ``hermes.backbones`` (or named by dotted path); ``model_types`` lists the Hugging Face ``model_type``
    values it serves, which is how a hub id or a folder finds its family.

    Attributes:
        video_marker, frame_markers, default_template: see :class:`.Wording`.
        sees: whether its frames are pictures; else they are texts (:class:`hermes.video.Caption`).
        pixel_defaults: preprocessor settings a checkpoint may leave out.
        layer_kinds: which layers of its decoders have full attention, in words.
        own_weights: what it has where no checkpoint is named: nothing, random weights, or trained ones.

    Args:
        model: the transformers model.
        tokenizer: the transformers tokenizer.
        config: how it was asked for.
        chat_template: the processor's, which precedes the tokenizer's own.
        preprocessor: the checkpoint's video preprocessor settings.
        processor_settings: those of the checkpoint's processor.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    sees: ClassVar[bool] = True
    axes: int = 1
    default_fps: ClassVar[float] = 1.0
    frames_per_group: int = 1
    # Whether tokens may be evicted under the native layout: not where stock positions go back in time.
    native_evicts: ClassVar[bool] = True
    layer_kinds: ClassVar[str] = "all managed"
    own_weights: ClassVar[Literal["", "random", "trained"]] = ""
    pixel_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: BackboneConfig,
        *,
        chat_template: str | None = None,
        preprocessor: Mapping[str, Any] | None = None,
        processor_settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.chat_template = chat_template
        self.preprocessor = dict(preprocessor or {})
        self.processor_settings = dict(processor_settings or {})
        # Set once the self-check has passed.
        self.checked = False

    def __repr__(self) -> str:
        own = f"a {type(self.model).__name__}" if not self.own_weights else f"{self.own_weights} weights"
        weights, specs = self.config.checkpoint or own, self.layer_specs
        kinds = f" ({describe_layers(specs)})" if len(specs) > self.num_layers else ""
        return f"<{type(self).__name__}: {weights}, {len(specs)} layers{kinds} on {self.device}>"

    @property
    def name(self) -> str:
        """What errors call it: the checkpoint, or else the family."""
        return self.config.checkpoint or self.config.family or type(self).__name__

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        """Load ``config.checkpoint``; families that need no files override this.

        Raises:
            InputError: a bad setting or checkpoint, see :func:`hermes.backbone.load_checkpoint`.
        """
        return cls(config=config, **load_checkpoint(config)._asdict())

    @classmethod
    def wrap(cls, model: Any, processor: object, config: BackboneConfig | None = None) -> Backbone:
        """Take a model of this family that is loaded already, and leave it as it is: types, devices, mode.

        Args:
            model: of transformers; its weights may be quantised or spread over devices.
            processor: its processor, the folder or hub id of its checkpoint, or, where it only reads, its
                tokenizer.
            config: how it is used; what loading decides is not named.

        Raises:
            SettingError: no loaded model, no processor of it, or a setting that loading has decided.
            InputError: a folder or hub id without a processor.
        """
        check_model(model)
        own = config_of(model, config or BackboneConfig())
        return cls(config=own, **checkpoint_of(model, processor, sees=cls.sees)._asdict())

    def check(self) -> None:
        """Refuse a decoder that cannot serve an endless stream; frequencies that were cast are mended.

        Raises:
            UnsupportedModelError: a kind of layer that no memory is written for, or RoPE whose frequencies
                follow the length, or have been rounded for good.
        """
        away = next((name for name, weight in self.model.named_parameters() if weight.is_meta), None)
        if away is not None:
            raise UnsupportedModelError(
                f"{self.name}: {away} and others have been left on disk or in the host's memory (device_map "
                "with offload). A stream needs every weight on a device at all times: give the model more "
                "devices, a smaller number type, or fewer bits"
            )
        restore_rotation(self.model)
        _ = self.layer_specs, self.rotary

    @property
    def decoder(self) -> nn.Module:
        """The text decoder: a module with ``layers``, ``norm`` and ``rotary_emb``."""
        decoder: nn.Module = self.model.get_decoder()
        return decoder

    @property
    def text_config(self) -> Any:
        """The text decoder's part of the model's configuration."""
        return self.model.config.get_text_config()

    @property
    def device(self) -> torch.device:
        """Where token ids are embedded: the device of a chunk's embeddings."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number type of the input embeddings."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @cached_property
    def layer_specs(self) -> tuple[LayerSpec, ...]:
        """What each layer of the decoder remembers, in order.

        Raises:
            UnsupportedModelError: see :func:`hermes.backbone.layer_specs`.
        """
        return layer_specs(self.text_config)

    @cached_property
    def managed(self) -> tuple[int, ...]:
        """The decoder layers with full attention, whose tokens a policy keeps or evicts, by their numbers."""
        return tuple(number for number, spec in enumerate(self.layer_specs) if spec.kind == "managed")

    @property
    def num_layers(self) -> int:
        """Layers that a policy sees: those with full attention."""
        return len(self.managed)

    @property
    def num_kv_heads(self) -> int:
        """Key-value heads of each managed layer."""
        config = self.text_config
        layers = getattr(config, "per_layer_config", None)
        return int((layers[self.managed[0]] if layers else config).num_key_value_heads)

    @property
    def max_position(self) -> int:
        """Positions the decoder was built for (``max_position_embeddings``)."""
        return int(self.text_config.max_position_embeddings)

    @cached_property
    def rotary(self) -> Rotary:
        """The decoder's rotary embedding.

        Raises:
            UnsupportedModelError: see :func:`hermes.backbone.read_rotary`.
        """
        return read_rotary(self, self.managed)

    @cached_property
    def window_rotary(self) -> Rotary:
        """The rotary embedding of window layers; the managed ones' where there are none.

        Raises:
            UnsupportedModelError: see :func:`hermes.backbone.read_rotary`.
        """
        windows = [number for number, spec in enumerate(self.layer_specs) if spec.kind == "window"]
        return read_rotary(self, windows) if windows else self.rotary

    def embed(self, ids: Int[Tensor, "B n"]) -> Float[Tensor, "B n hidden"]:
        """Input embeddings of token ids."""
        embeds: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embeds

    def project(self, layer: int, hidden: Float[Tensor, "B n hidden"]) -> tuple[Tensor, Tensor]:
        """Queries ``[B, Hq, n, D]`` and keys ``[B, Hkv, n, D]`` of one managed layer, before rotation.

        Channels are in the order of :attr:`rotary`. ``hidden`` is the layer's input (before its norm).
        """
        return self._projections(layer, hidden)

    def scaling(self, layer: int) -> float:
        """The factor of a managed layer's attention scores."""
        return self._projections.scalings[layer]

    @cached_property
    def _projections(self) -> Projections:
        return Projections(self)

    def run(
        self,
        embeds: Float[Tensor, "B n hidden"],
        positions: Float[Tensor, "A n"] | Float[Tensor, "A B n"],
        cache: Any,
        chunk: Chunk | None = None,
        **options: Any,
    ) -> Any:
        """One forward of the decoder over ``cache``, which takes the tokens in; the one place that calls it.

        Args:
            positions: on every position axis, the same for all streams or one row each.
            chunk: what the embeddings are of, where they are frames.
            options: of the decoder, such as ``output_attentions``.
        """
        batch = embeds.shape[0]
        at = positions.to(embeds.device)
        at = (at[:, None] if at.ndim == 2 else at).expand(-1, batch, -1)
        if chunk is not None:
            masks = block_masks(self.model, embeds, self.attend_both_ways(chunk), cache)
            options |= {} if masks is None else {"attention_mask": masks}
        # Where frames are texts, their tokens are of the vocabulary.
        seen = chunk.tokens.kind == int(TokenKind.VISUAL) if chunk is not None and self.sees else None
        layers = per_layer_inputs(self.decoder, embeds, seen)
        options |= {} if layers is None else {"per_layer_inputs": layers}
        return self.decoder(
            inputs_embeds=embeds,
            position_ids=at if self.axes > 1 else at[0],
            past_key_values=cache,
            use_cache=True,
            **(self.prefill_kwargs(chunk) if chunk is not None else {}),
            **options,
        )

    def new_memory(self, config: MemoryConfig | None = None) -> KVMemory:
        """An empty memory of this decoder's layers."""
        window, config = self.window_rotary, config or MemoryConfig()
        return KVMemory.of(self.layer_specs, self.rotary, config, window_rotary=window)

    def attend_both_ways(self, chunk: Chunk) -> Bool[Tensor, "*streams n"]:
        """Which tokens of a chunk are of pictures, whose tokens see each other both ways in some families."""
        return chunk.tokens.kind == int(TokenKind.VISUAL)

    def prefill_kwargs(self, chunk: Chunk) -> Mapping[str, Any]:
        """Extra decoder keywords for a chunk: visual tokens, and what early layers add to them."""
        if not chunk.deepstack:
            return {}
        # [B, n]
        seen = (chunk.tokens.kind == int(TokenKind.VISUAL)).to(chunk.embeds.device)
        seen = seen.expand(chunk.embeds.shape[0], -1)
        return {
            "visual_pos_masks": seen,
            "deepstack_visual_embeds": [level[seen] for level in chunk.deepstack],
        }

    @classmethod
    def stock_fps(cls, config: BackboneConfig) -> float:
        """Frames sampled per second where nobody says otherwise, before any weights are loaded."""
        return cls.default_fps

    @property
    def fps(self) -> float:
        """Frames sampled per second."""
        return self.config.fps or self.default_fps

    @cached_property
    def recipe(self) -> PixelRecipe:
        """How frames are resized and normalised: the checkpoint's settings, then the user's pixel limits.

        Raises:
            SettingError: pixel limits that this model cannot keep.
            UnsupportedModelError: preprocessing that is not supported.
        """
        return self.checkpoint_recipe().limited(self.config.min_pixels, self.config.max_pixels)

    def checkpoint_recipe(self) -> PixelRecipe:
        """What the checkpoint says of its frames, the family's defaults where it says nothing."""
        given = {key: value for key, value in self.preprocessor.items() if value is not None}
        return PixelRecipe.of({**self.pixel_defaults, **given})

    @abstractmethod
    def tokens_per_frame(self, height: int, width: int) -> int:
        """Tokens one frame of this size (pixels) costs, timestamps included."""

    @abstractmethod
    def video(self, frames: Sequence[Frame], state: VideoState, *, fps: float) -> Chunk:
        """Encode frames into a chunk and advance ``state``; an incomplete group is completed by doubling.

        Raises:
            InputError: frames that cannot be encoded together.
        """

    def token_saliency(self, received: Float[Tensor, " patches"], chunk: Chunk) -> Float[Tensor, " n"]:
        """Attention received by the patches of the vision encoder's last layer, as one number a token.

        Raises:
            UnsupportedModelError: the family does not say how its patches become tokens.
        """
        raise UnsupportedModelError(
            f"{type(self).__name__} does not tell the saliency of its tokens (Backbone.token_saliency)"
        )

    def closing(self, state: VideoState) -> Float[Tensor, "1 n hidden"] | None:
        """Embeddings a native layout puts between the video and the question (an image newline), or None."""
        return None

    def prefix(self, state: VideoState) -> Chunk:
        """The fixed prefix as a chunk; its tokens are never evicted."""
        before, given, after = self.prefix_text().partition(self.config.system_prompt or "\0")
        ids = self._around(before, given, after)
        state.next_id += ids.shape[1]
        return Chunk.text(self.embed(ids), self.axes, TokenKind.PREFIX)


def deepstack(output: Any, seen: Bool[Tensor, " n"], like: Tensor) -> tuple[Float[Tensor, "1 n hidden"], ...]:
    """What a vision tower gives early decoder layers, at a chunk's visual tokens and zero elsewhere.

    Args:
        seen: which of the chunk's tokens are visual.
        like: of the wanted device, number type and width.
    """
    out = []
    for level in getattr(output, "deepstack_features", None) or ():
        spread = like.new_zeros(1, len(seen), like.shape[-1])
        spread[:, seen.to(like.device)] = visual_features(level, int(seen.sum())).to(spread)
        out.append(spread)
    return tuple(out)


def visual_features(output: Any, count: int | None = None) -> Float[Tensor, "1 n hidden"]:
    """The first ``count`` embeddings of a vision tower, or all, in whatever form transformers returns them.

    Outputs may be tensors, tuples with one tensor a video, or objects that hold
    either; newer versions append an image newline, which ``count`` leaves out.

    Raises:
        HermesError: the tower returned fewer than ``count``.

    >>> visual_features((torch.zeros(3, 8), torch.zeros(2, 8)), 4).shape
    torch.Size([1, 4, 8])
    """
    features = getattr(output, "pooler_output", output)
    if not isinstance(features, Tensor):
        features = torch.cat([part.flatten(0, -2) for part in features])
    features = features.flatten(0, -2)
    count = features.shape[0] if count is None else count
    if features.shape[0] < count:
        raise HermesError(
            f"the vision tower returned {features.shape[0]} embeddings where {count} were expected"
        )
    return features[:count].unsqueeze(0)
