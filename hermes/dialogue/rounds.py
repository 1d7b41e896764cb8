"""One round of a dialogue: a question and its answer."""

from __future__ import annotations

from dataclasses import dataclass

from hermes.dialogue.choices import answer_text

__all__ = ["Round"]


@dataclass(frozen=True)
class Round:
    """One round of the conversation: a question, its answer and, for multiple choice, the options."""

    question: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def answer_text(self) -> str:
        """The answer, or the text of the option whose letter it is.

        >>> Round("Which colour?", "(B", ("red", "blue")).answer_text
        'blue'
        >>> Round("Which colour?", "a blue one", ("red", "blue")).answer_text
        'a blue one'
        """
        return answer_text(self.answer, self.choices)
