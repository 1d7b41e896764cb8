"""One round of a dialogue: a question and its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass


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
        found = re.fullmatch(r"\s*\(?([A-Z])\b[).:]?.*", self.answer, flags=re.DOTALL)
        if found and self.choices:
            index = ord(found.group(1)) - ord("A")
            bare = re.fullmatch(r"\s*\(?[A-Z][).:]?\s*", self.answer) is not None
            if index < len(self.choices) and (bare or self.choices[index] in self.answer):
                return self.choices[index]
        return self.answer.strip()
