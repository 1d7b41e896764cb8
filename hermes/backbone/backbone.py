"""What a model family must say about itself, so that everything else needs to know no family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hermes.backbone.checkpoint import load_checkpoint
from hermes.backbone.config import BackboneConfig
from hermes.backbone.pixels import PixelRecipe
from hermes.dialogue import TemplateParts, chatml, split_template
from hermes.errors import HermesError, UnsupportedModelError
from hermes.tokens import Chunk, Rotary, TokenKind, VideoState
from hermes.video import Frame

__all__ = ["Backbone", "visual_features"]


class Backbone(ABC):
    """One model family: pixels to chunks, the chat template, position axes and the rotary embedding.

    A family is one file that subclasses this, registered under the entry point group
    ``hermes.backbones`` (or named by dotted path); ``model_types`` lists the Hugging Face ``model_type``
    values it serves, which is how a hub id or a folder finds its family.

    Attributes:
        video_marker: what the chat template writes for a video.
        frame_markers: what it writes around that; the ``stream`` layout leaves them out.
        default_template: for checkpoints without a chat template.
        pixel_defaults: preprocessor settings a checkpoint may leave out.

    Args:
        model: the transformers model.
        tokenizer: the transformers tokenizer.
        config: how it was asked for.
        chat_template: the processor's, which precedes the tokenizer's own.
        preprocessor: the checkpoint's video preprocessor settings.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[int] = 1
    default_fps: ClassVar[float] = 1.0
    frames_per_group: ClassVar[int] = 1
    # Whether tokens may be evicted under the native layout: not where stock positions go back in time.
    native_evicts: ClassVar[bool] = True
    video_marker: ClassVar[str] = "<video>"
    frame_markers: ClassVar[tuple[str, str]] = ("", "")
    default_template: ClassVar[str] = chatml("<video>")
    pixel_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: BackboneConfig,
        *,
        chat_template: str | None = None,
        preprocessor: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.chat_template = chat_template
        self.preprocessor = dict(preprocessor or {})
        # Set once the self-check has passed.
        self.checked = False

    def __repr__(self) -> str:
        weights = self.config.checkpoint or "random weights"
        return f"<{type(self).__name__}: {weights}, {self.num_layers} layers on {self.device}>"

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        """Load ``config.checkpoint``; families that need no files override this.

        Raises:
            InputError: a bad setting or checkpoint, see :func:`hermes.backbone.load_checkpoint`.
        """
        return cls(config=config, **load_checkpoint(config)._asdict())

    def check(self) -> None:
        """Refuse a decoder that cannot serve an endless stream.

        Raises:
            UnsupportedModelError: sliding-window attention, or RoPE whose frequencies follow the length.
        """
        layer_types = getattr(self.text_config, "layer_types", None) or []
        if any("sliding" in str(kind) for kind in layer_types):
            raise UnsupportedModelError(
                f"the decoder of {self.config.checkpoint!r} uses sliding-window attention, which hides "
                "memory older than the window: use a checkpoint with full attention"
            )
        _ = self.rotary

    @property
    def decoder(self) -> nn.Module:
        """The text decoder: a module with ``layers``, ``norm`` and ``rotary_emb``."""
        decoder: nn.Module = self.model.model.language_model
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

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return int(self.text_config.num_hidden_layers)

    @property
    def num_kv_heads(self) -> int:
        """Key-value heads of each layer."""
        return int(self.text_config.num_key_value_heads)

    @property
    def max_position(self) -> int:
        """Positions the decoder was built for (``max_position_embeddings``)."""
        return int(self.text_config.max_position_embeddings)

    @cached_property
    def rotary(self) -> Rotary:
        """The decoder's rotary embedding.

        Raises:
            UnsupportedModelError: see :meth:`hermes.tokens.Rotary.of`.
        """
        return Rotary.of(self.decoder, self.axes)

    def embed(self, ids: Int[Tensor, "B n"]) -> Float[Tensor, "B n hidden"]:
        """Input embeddings of token ids."""
        embeds: Tensor = self.model.get_input_embeddings()(ids.to(self.device))
        return embeds

    def project(self, layer: int, hidden: Float[Tensor, "B n hidden"]) -> tuple[Tensor, Tensor]:
        """Queries ``[B, Hq, n, D]`` and keys ``[B, Hkv, n, D]`` of one layer, before rotation.

        ``hidden`` is the layer's input (before its norm).
        """
        block: Any = self.decoder.layers[layer]  # type: ignore[index]
        attention = block.self_attn
        # Called piece by piece, no hook moves its input to where the layer is.
        x = block.input_layernorm(hidden.to(block.input_layernorm.weight.device))
        shape = (*x.shape[:-1], -1, attention.head_dim)
        query = attention.q_proj(x).view(shape)
        key = attention.k_proj(x).view(shape)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        return query.transpose(1, 2), key.transpose(1, 2)

    def prefill_kwargs(self, chunk: Chunk) -> Mapping[str, Any]:
        """Extra decoder keywords for a chunk (Qwen3-VL: deepstack features)."""
        return {}

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

    @cached_property
    def template_parts(self) -> TemplateParts:
        """The chat template cut at the video and the question, as the layout wants it.

        Raises:
            InputError: no chat template can be cut, see :func:`hermes.dialogue.split_template`.
        """
        templates = [self.chat_template] if self.chat_template else []
        prompt = self.config.system_prompt
        parts = split_template(
            self.tokenizer, [*templates, None, self.default_template], prompt, self.video_marker
        )
        if self.config.layout == "native":
            return parts
        opening, ending = self.frame_markers
        return parts._replace(
            prefix=parts.prefix.removesuffix(opening), before=parts.before.removeprefix(ending)
        )

    def prefix_text(self) -> str:
        """Everything before the first frame."""
        return self.template_parts.prefix

    def question_text(self, question: str, answer_prefix: str = "") -> str:
        """Everything after the last frame: the question, the turn's end and the start of the answer."""
        return f"{self.template_parts.before}{question}{self.template_parts.after}{answer_prefix}"

    def encode(self, text: str) -> Int[Tensor, "1 n"]:
        """Token ids of raw text, special tokens written in it recognised, none added."""
        ids: Tensor = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        return ids.to(self.device)

    def decode(self, ids: Int[Tensor, " n"]) -> str:
        """The text of token ids, special tokens left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def prefix(self, state: VideoState) -> Chunk:
        """The fixed prefix as a chunk; its tokens are never evicted."""
        ids = self.encode(self.prefix_text())
        state.next_id += ids.shape[1]
        return Chunk.text(self.embed(ids), self.axes, TokenKind.PREFIX)


def visual_features(output: Any, count: int) -> Float[Tensor, "1 n hidden"]:
    """The first ``count`` embeddings of a vision tower, in whatever form transformers returns them.

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
    if features.shape[0] < count:
        raise HermesError(
            f"the vision tower returned {features.shape[0]} embeddings where {count} were expected"
        )
    return features[:count].unsqueeze(0)
