"""Text decoders: any causal language model of transformers, which reads a stream of texts with times."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch

from hermes.backbone import Backbone, BackboneConfig, load_checkpoint
from hermes.dialogue import TemplateParts, split_template
from hermes.errors import InputError, UnsupportedModelError
from hermes.tokens import Chunk, Provenance, TokenKind, VideoState
from hermes.video import Caption, Frame

# For base models, which have no chat template.
_PLAIN = "{{ bos_token }}{% for message in messages %}{{ message.content }}\n\n{% endfor %}"


class Text(Backbone):
    """Any causal language model of transformers that serves the checkpoint: a frame is a piece of text.

    Source: streams of text are what StreamingLLM (arXiv 2309.17453) and SnapKV (arXiv 2404.14469) were made
    for. Each text stands on a line of its own, behind its time in brackets (kind ``TIMESTAMP``) unless
    ``backbone.written_times`` is false; its tokens are of kind ``VISUAL`` with row 0 and a column each, so
    that policies treat them as they treat patches. Positions count tokens in both layouts.
    """

    sees = False
    layer_kinds = "told once loaded"
    default_fps = 1.0
    video_marker = "TEXTS-GO-HERE"
    default_template = _PLAIN

    @classmethod
    def load(cls, config: BackboneConfig) -> Backbone:
        """Load ``config.checkpoint`` as a causal language model.

        Raises:
            InputError: a bad setting or checkpoint, see :func:`hermes.backbone.load_checkpoint`.
        """
        return cls(config=config, **load_checkpoint(config, "AutoModelForCausalLM")._asdict())

    def check(self) -> None:
        """Refuse a decoder without layers and a rotary embedding of its own, and what every backbone refuses.

        Raises:
            UnsupportedModelError: learned positions, ALiBi, or what :meth:`hermes.Backbone.check` refuses.
        """
        if not all(hasattr(self.decoder, part) for part in ("layers", "rotary_emb")):
            raise UnsupportedModelError(
                f"{self.config.checkpoint or type(self.model).__name__}: the decoder of model type "
                f"{self.text_config.model_type!r} has no 'layers' and 'rotary_emb' (its positions are "
                "learned or biases, it has none, or each block rotates by itself), so that keys kept from an "
                "endless stream cannot be moved. Use a model such as Llama, Qwen or Mistral"
            )
        super().check()

    @cached_property
    def template_parts(self) -> TemplateParts:
        """The chat template cut at the texts and the question.

        Where it has no system turn, the system prompt stands before the texts; a model without a template has
        paragraphs.

        Raises:
            InputError: no template can be cut, see :func:`hermes.dialogue.split_template`.
        """
        own = [self.chat_template, None] if self.chat_template else [None]
        prompt, marker = self.config.system_prompt, self.video_marker
        before = f"{prompt}\n\n" if prompt else ""
        for system, leading in ((prompt, ""), (None, before)):
            with suppress(InputError):
                parts = split_template(self.tokenizer, own, system, f"{leading}{marker}")
                return parts._replace(prefix=f"{parts.prefix}{leading}")
        return split_template(self.tokenizer, [self.default_template], prompt, marker)

    def tokens_per_frame(self, height: int, width: int) -> int:
        """No size says how many tokens a text has.

        Raises:
            InputError: always; :meth:`count` counts those of a text.
        """
        raise InputError(
            f"a text model sees no pictures ({width}x{height} pixels): tokens are those of a text"
        )

    def video(self, frames: Sequence[Frame], state: VideoState, *, fps: float) -> Chunk:
        """Texts as a chunk, a line each.

        Raises:
            InputError: a frame that is no :class:`~hermes.video.Caption`.
        """
        ids, tokens, next_id = [], [], state.next_id
        for frame in frames:
            if not isinstance(frame, Caption):
                raise InputError(f"frame {frame.index} is a picture; this model reads text: feed captions")
            line = " ".join(frame.text.split())
            if self.config.written_times:
                stamp, line = self.encode(f"[{frame.time:.1f} s]"), f" {line}"
                mark: dict[str, Any] = {"kind": TokenKind.TIMESTAMP, "frame": frame.index, "time": frame.time}
                ids.append(stamp)
                tokens.append(Provenance.text(stamp.shape[1], first_id=next_id, **mark))
                next_id += stamp.shape[1]
            words = self.encode_plain(f"{line}\n")
            place: dict[str, Any] = {"first_id": next_id, "frame": frame.index, "time": frame.time}
            ids.append(words)
            tokens.append(Provenance.visual(**place, rows=1, cols=words.shape[1]))
            next_id += words.shape[1]
        length = next_id - state.next_id
        state.add(frames=len(frames), groups=len(frames), advance=length, tokens=length)
        return Chunk(
            embeds=self.embed(torch.cat(ids, dim=1)),
            positions=torch.arange(length, dtype=torch.float32, device=self.device).unsqueeze(0),
            advance=length,
            tokens=Provenance.cat(tokens),
            frames=len(frames),
        )
