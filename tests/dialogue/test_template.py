"""Chat templates cut at the video and the question."""

from __future__ import annotations

import pytest

from hermes.dialogue import chatml, split_template
from hermes.errors import InputError
from hermes.tokens import TokenKind, VideoState
from tests.support.families import tiny

pytestmark = pytest.mark.model

# In the manner of the published templates: content in parts; text only; a default system turn.
PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' }}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + c['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT_ONLY = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}" + PARTS
)


@pytest.mark.parametrize(
    ("template", "system", "prefix", "before", "after"),
    [
        (PARTS, None, "<|im_start|>user <video>", "\n", "<|im_end|><|im_start|>assistant\n"),
        (
            PARTS,
            "Look.",
            "<|im_start|>system \nLook.<|im_end|><|im_start|>user <video>",
            "\n",
            "<|im_end|><|im_start|>assistant\n",
        ),
        (TEXT_ONLY, None, "<|im_start|>user\n<video>", "\n", "<|im_end|>\n<|im_start|>assistant\n"),
        (
            DEFAULT_SYSTEM,
            None,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user <video>",
            "\n",
            "<|im_end|><|im_start|>assistant\n",
        ),
    ],
    ids=["parts", "system", "text-only", "default-system"],
)
def test_a_template_is_cut_at_the_video_and_the_question(template, system, prefix, before, after):
    turn = split_template(tiny("llava_onevision").tokenizer, [template], system, "<video>")
    assert (turn.prefix + "<video>", turn.before, turn.after) == (prefix, before, after)


def test_templates_are_tried_in_turn():
    tokenizer = tiny("qwen2_5_vl").tokenizer
    broken, blind = "{{ messages[7].role.x }}", "{% for m in messages %}{{ m.role }}{% endfor %}"
    turn = split_template(tokenizer, [broken, blind, chatml("<video>")], None, "<video>")
    assert turn.prefix == "<|im_start|>user\n"
    with pytest.raises(InputError, match=r"no chat template.*'<video>'"):
        split_template(tokenizer, [broken, blind], None, "<video>")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_only_the_native_layout_keeps_the_templates_vision_markers(family):
    stream, native = tiny(family), tiny(family, "native")
    assert native.prefix_text() == stream.prefix_text() + "<|vision_start|>"
    assert native.question_text("Why?", "(A") == "<|vision_end|>" + stream.question_text("Why?", "(A")
    assert stream.question_text("Why?", "(A") == "Why?<|im_end|>\n<|im_start|>assistant\n(A"
    prefix = stream.prefix(VideoState())
    assert stream.decode(stream.encode("<|im_start|>Why?")[0]) == "Why?"
    assert set(prefix.tokens.kind.tolist()) == {int(TokenKind.PREFIX)}
    assert prefix.advance == len(prefix)
