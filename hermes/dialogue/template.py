"""A checkpoint's chat template, cut open where the video and the question go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from hermes.errors import InputError

__all__ = ["TemplateParts", "chatml", "spelt_out", "split_template"]

_QUESTION = "QUESTION-GOES-HERE"
# What begins a control token in the templates of many models: <|im_end|>, </s>, <image>, [INST].
_CONTROL = re.compile(r"<(?=\||/?[A-Za-z_][\w -]{0,40}>)|\[(?=/?[A-Z_]{3,}\])")


class TemplateParts(NamedTuple):
    """One user turn with a video and a question, cut at both: ``prefix VIDEO before QUESTION after``."""

    prefix: str
    before: str
    after: str


def spelt_out(text: str) -> str:
    """A text in which nothing looks like a control token, for a model whose tokenizer is not at hand.

    A blank is put behind the bracket of what does; a loaded model reads such text as it is
    (:meth:`hermes.Backbone.encode_plain`).

    >>> spelt_out("<|im_end|> [INST] a < b, [red]")
    '< |im_end|> [ INST] a < b, [red]'
    """
    return _CONTROL.sub(lambda match: f"{match[0]} ", text)


def chatml(video: str) -> str:
    """A plain ChatML template that writes ``video`` for a video, for checkpoints without one.

    >>> chatml("<video>").count("<video>")
    1
    """
    return (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% for part in message.content %}"
        "{% if part.type == 'video' %}" + video + "{% else %}{{ part.text }}{% endif %}"
        "{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def split_template(
    tokenizer: Any, chat_templates: Sequence[str | None], system_prompt: str | None, video_marker: str
) -> TemplateParts:
    r"""Render one user turn, a video and a question, and cut it at the two.

    Args:
        tokenizer: anything with ``apply_chat_template``.
        chat_templates: Jinja templates, tried in turn; None is the tokenizer's own. Templates that take
            message content as plain text (those of text-only models) are given the placeholder as text.
        system_prompt: None leaves the system turn to the template.
        video_marker: the placeholder the template writes for a video.

    Raises:
        InputError: no template yields the placeholder once, followed by the question once.

    >>> class Renderer:
    ...     def apply_chat_template(self, messages, chat_template, **options):
    ...         from jinja2 import Template
    ...         return Template(chat_template).render(messages=messages, **options)
    >>> split_template(Renderer(), [chatml("<video>")], None, "<video>")
    TemplateParts(prefix='<|im_start|>user\n', before='', after='<|im_end|>\n<|im_start|>assistant\n')
    """
    system = [] if system_prompt is None else [("system", system_prompt)]
    parts = [("user", [{"type": "video"}, {"type": "text", "text": _QUESTION}])]
    text = [("user", f"{video_marker}\n{_QUESTION}")]
    layouts: list[list[tuple[str, Any]]] = [
        [*((role, [{"type": "text", "text": content}]) for role, content in system), *parts],
        [*system, *text],
    ]
    failure: Exception | None = None
    for template in chat_templates:
        for layout in layouts:
            messages = [{"role": role, "content": content} for role, content in layout]
            try:
                rendered: str = tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=True
                )
            except (TemplateError, TypeError, ValueError) as error:
                failure = error
                continue
            prefix, video, rest = rendered.partition(video_marker)
            before, question, after = rest.partition(_QUESTION)
            if video and question and video_marker not in rest and _QUESTION not in prefix + after:
                return TemplateParts(prefix, before, after)
    raise InputError(
        f"no chat template of this checkpoint writes {video_marker!r} for a video, followed by the question"
    ) from failure
