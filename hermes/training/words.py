"""Every word the embedded model knows, its tokenizer, and how its prompts are cut into token ids."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hermes.data.wanderer.questions import KINDS, NUMBERS
from hermes.data.wanderer.world import COLOURS, CORNERS, OBJECTS, PLACES, SHAPES, object_name
from hermes.dialogue import GuidancePrompts, multiple_choice, split_template

__all__ = [
    "ANSWER_PREFIX",
    "NOTHING",
    "SYSTEM_PROMPT",
    "TEMPLATE",
    "Prompt",
    "build_tokenizer",
    "visual_words",
]

SYSTEM_PROMPT = "You are a helpful assistant."
ANSWER_PREFIX = "Best option: ("
NOTHING = "nothing"
# Short, and with no blank before an answer, so that " red" is one token wherever it stands.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{% for part in message.content %}{{ part.text + '\n' }}{% endfor %}"
    "{% elif message.role == 'user' %}USER:{% for part in message.content %}"
    "{% if part.type == 'video' %}<video>{% elif part.type == 'image' %}<image>"
    "{% else %}{{ '\n' + part.text }}{% endif %}{% endfor %}{{ '\n' }}"
    "{% else %}ASSISTANT:{% for part in message.content %} {{ part.text }}{% endfor %}"
    "<|endoftext|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_PIECES = r" ?[A-Za-z][A-Za-z-]*| ?[0-9]+| ?[^\sA-Za-z0-9]|\s"
_TEXTS = (
    SYSTEM_PROMPT,
    *("USER:", "ASSISTANT:", "Best option: (", "(A)"),
    "What Where Which How many Did we came first, was were is are in the now or before "
    "visit appear appeared?",
    "colour shape corner object place filled places shapes.",
    "Number the places. Which objects appeared? List the place before each place.",
    "Which came first of each pair?",
    "List the places shapes colours corners objects by place object in order in reverse order; nothing.",
    "Summarise Describe Find recent details related to the last round: Question: Answer: Context of",
)


def visual_words() -> list[str]:
    """What a frame can show, in words: one direction of the embedding space each."""
    objects = [object_name(obj) for obj in range(OBJECTS)]
    return [*PLACES, *COLOURS, *SHAPES, *CORNERS, *objects, NOTHING]


def _corpus() -> list[str]:
    prompts = GuidancePrompts()
    answers = {answer for kind in KINDS.values() for answer in kind.answers}
    words = [f" {word}" for word in [*visual_words(), *sorted(answers), *NUMBERS]]
    return [*_TEXTS, prompts.local_text, prompts.global_text, *words]


def build_tokenizer() -> Any:
    """A byte-level BPE tokenizer in which every word of the world, with its blank, is one token.

    Other text is spelt in pieces, down to bytes.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<image>", "<video>"]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=special[0],
        pad_token=special[0],
        additional_special_tokens=special[1:],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
    )


class Prompt:
    """Prompts as token ids, the same as a session's, piece by piece and remembered."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.template_parts = split_template(tokenizer, [TEMPLATE], SYSTEM_PROMPT, "<video>")
        self.end = int(tokenizer.eos_token_id)
        self._pieces: dict[str, list[int]] = {}
        self._split = re.compile(_PIECES)

    def ids(self, text: str) -> list[int]:
        """Token ids of text without special tokens."""
        out: list[int] = []
        for piece in self._split.findall(text):
            if piece not in self._pieces:
                self._pieces[piece] = self.tokenizer(piece, add_special_tokens=False).input_ids
            out += self._pieces[piece]
        return out

    def word(self, word: str) -> int:
        """The one token of a word that follows a blank."""
        (found,) = self.ids(f" {word}")
        return found

    def prefix(self) -> list[int]:
        """Everything before the first frame."""
        return self.ids(self.template_parts.prefix)

    def question(self, text: str, options: Iterable[str] = ()) -> list[int]:
        """Everything after the last frame, up to the answer."""
        options = tuple(options)
        text = multiple_choice(text, options) if options else text
        return self.ids(
            f"{self.template_parts.before}{text}{self.template_parts.after}{ANSWER_PREFIX if options else ''}"
        )
