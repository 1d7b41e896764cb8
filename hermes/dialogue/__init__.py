"""Questions and answers as text: rounds, options, prompts and the chat template."""

from hermes.dialogue.choices import check_choices, choice_of, is_correct, letters, multiple_choice
from hermes.dialogue.limits import QuestionConfig, guiding_round
from hermes.dialogue.prompts import PROMPT_KINDS, GuidancePrompts
from hermes.dialogue.rounds import Round
from hermes.dialogue.template import TemplateParts, chatml, spelt_out, split_template

__all__ = [
    "PROMPT_KINDS",
    "GuidancePrompts",
    "QuestionConfig",
    "Round",
    "TemplateParts",
    "chatml",
    "check_choices",
    "choice_of",
    "guiding_round",
    "is_correct",
    "letters",
    "multiple_choice",
    "spelt_out",
    "split_template",
]
