"""Texts as token ids: the chat template around them, and control tokens that they may not write."""

from __future__ import annotations

import copy
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from hermes.backbone.config import BackboneConfig
from hermes.dialogue import TemplateParts, chatml, split_template

__all__ = ["Wording"]

# What a control token looks like that a tokenizer does not call special, such as <tool_call>.
_TAG = re.compile(r"<[^\s<>]+>|\[[^\s\[\]]+\]")


class Wording(ABC):
    """What of a backbone turns texts into token ids and back, by its tokenizer and chat template.

    Attributes:
        video_marker: what the chat template writes for a video.
        frame_markers: what it writes around that; the ``stream`` layout leaves them out.
        default_template: for checkpoints without a chat template.
    """

    video_marker: str = "<video>"
    frame_markers: tuple[str, str] = ("", "")
    default_template: ClassVar[str] = chatml("<video>")

    tokenizer: Any
    config: BackboneConfig
    chat_template: str | None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where token ids are embedded: the device of a chunk's embeddings."""

    @cached_property
    def native_parts(self) -> TemplateParts:
        """The chat template cut at the video and the question.

        Raises:
            InputError: no chat template can be cut, see :func:`hermes.dialogue.split_template`.
        """
        templates = [self.chat_template] if self.chat_template else []
        prompt = self.config.system_prompt
        return split_template(
            self.tokenizer, [*templates, None, self.default_template], prompt, self.video_marker
        )

    @cached_property
    def template_parts(self) -> TemplateParts:
        """:attr:`native_parts` as the layout wants them; raises likewise."""
        parts = self.native_parts
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

    def question_ids(self, question: str, answer_prefix: str = "") -> Int[Tensor, "1 n"]:
        """Token ids of :meth:`question_text`; the template's control tokens count, the question's do not."""
        before, _, after = self.question_text("\0", answer_prefix).partition("\0")
        return self._around(before, question, after)

    def encode(self, text: str) -> Int[Tensor, "1 n"]:
        """Token ids of raw text, control tokens written in it recognised, none added."""
        given = {"add_special_tokens": False, "return_tensors": "pt", "verbose": False}
        ids: Tensor = self.tokenizer(text, **given).input_ids
        return ids.to(self.device, torch.long)

    def encode_plain(self, text: str) -> Int[Tensor, "1 n"]:
        """Token ids of a text of a user's or of data, control tokens written in it spelt out like other text.

        With the setting ``backbone.control_tokens`` they are recognised here, too.
        """
        ids = self.encode(text)
        if self.config.control_tokens or not self._controls(ids):
            return ids
        return torch.tensor([self._spelt(text)], device=self.device)

    def count(self, text: str) -> int:
        """Tokens of a text, as :meth:`encode_plain` reads it."""
        return self.encode_plain(text).shape[1]

    def _around(self, before: str, given: str, after: str) -> Int[Tensor, "1 n"]:
        """Token ids of parts of the template around a given text, whose control tokens do not count."""
        whole, ends = self.encode(f"{before}{given}{after}"), [self.encode(text) for text in (before, after)]
        own = [token for ids in ends for token in self._controls(ids)]
        if self.config.control_tokens or self._controls(whole) == own:
            return whole
        return torch.cat((ends[0], self.encode_plain(given), ends[1]), dim=1)

    def _controls(self, ids: Int[Tensor, "1 n"]) -> list[int]:
        """Those of the token ids that are control tokens."""
        known = self._control_tokens
        return [token for token in ids[0].tolist() if token in known]

    @cached_property
    def _control_tokens(self) -> Mapping[int, str]:
        """The tokenizer's special tokens, and others that it has added and that look like those."""
        added = {
            number: token.content
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.special or _TAG.fullmatch(token.content)
        }
        special = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        return {**added, **dict(special)}

    @cached_property
    def _spelling(self) -> Any:
        """A tokenizer of its own for `_spelt`: how special tokens are taken is a state of the tokenizer."""
        return copy.deepcopy(self.tokenizer)

    def _spelt(self, text: str) -> list[int]:
        """Token ids of a text with its control tokens in pieces."""
        starts = (f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in self._control_tokens.values())
        ids: list[int] = []
        # Whole; else cut inside each control token; else letter by letter.
        for pieces in ([text], re.split("|".join(starts), text), text):
            given = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
            ids = [token for piece in pieces for token in self._spelling(piece, **given).input_ids]
            if self._control_tokens.keys().isdisjoint(ids):
                break
        return ids

    def decode(self, ids: Int[Tensor, " n"]) -> str:
        """The text of token ids, special tokens left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text
