"""Multiple choice: the letters of options, what an answer means, and whether it is right."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from hermes.errors import InputError

__all__ = [
    "MOST_CHOICES",
    "answer_text",
    "check_choices",
    "choice_of",
    "is_correct",
    "lettered",
    "letters",
    "multiple_choice",
]

# A letter each.
MOST_CHOICES = len(string.ascii_uppercase)


def letters(count: int) -> list[str]:
    """Option letters from A on, ``count`` of them, as far as there are letters."""
    return list(string.ascii_uppercase[:count])


def lettered(choices: Sequence[str]) -> dict[str, str]:
    """The options by their letters, as far as there are letters.

    >>> lettered(["red", "blue"])
    {'A': 'red', 'B': 'blue'}
    """
    return dict(zip(string.ascii_uppercase, choices, strict=False))


def answer_text(answer: str, choices: Sequence[str]) -> str:
    """The text of the option whose letter an answer gives, alone or with the option; else the answer itself.

    >>> answer_text("(B", ["red", "blue"]), answer_text("a blue one ", ["red", "blue"])
    ('blue', 'a blue one')
    """
    found = re.fullmatch(r"\s*\(?([A-Z])\b[).:]?(.*)", answer, flags=re.DOTALL)
    option = lettered(choices).get(found[1]) if found else None
    bare = found is not None and not found[2].strip()
    return option if option is not None and (bare or option in answer) else answer.strip()


def choice_of(text: str, choices: Sequence[str]) -> str | None:
    """The letter a text means, ``B``, ``(B)`` or an option's own text; None if it means none.

    >>> choice_of("(B) blue", ["red", "blue"]), choice_of("red", ["red", "blue"]), choice_of("green", ["red"])
    ('B', 'A', None)
    """
    meant = text if text in choices else answer_text(text, choices)
    return next((letter for letter, choice in lettered(choices).items() if choice == meant), None)


def is_correct(correct: str, given: str, choices: Sequence[str]) -> bool:
    """Whether an answer is right: by letter or option if there are choices, else by its words.

    Options that read the same are right together.

    >>> is_correct("red", "B", ["blue", "red"]), is_correct("(A)", "A", ["x", "y"])
    (True, True)
    >>> is_correct("Two.", "two", []), is_correct("x", "B", ["x", "x"])
    (True, True)
    """
    if choices:
        options, right = lettered(choices), choice_of(correct, choices)
        return right is not None and options.get(given) == options[right]
    return correct.strip().casefold().rstrip(".") == given.strip().casefold().rstrip(".")


def check_choices(choices: Sequence[str], correct: str | None) -> None:
    """Refuse a multiple-choice question that cannot be asked or judged.

    Raises:
        InputError: a single choice or too many, or a right answer that is none of them.
    """
    if choices and not 2 <= len(choices) <= MOST_CHOICES:
        raise InputError(f"a multiple-choice question needs 2 to {MOST_CHOICES} choices, not {len(choices)}")
    if choices and correct is not None and choice_of(correct, choices) is None:
        raise InputError(f"the right answer {correct!r} is none of the choices: {', '.join(choices)}")


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """A question with its options listed as ``(A) ...`` (arXiv 2601.14724, App. B).

    >>> print(multiple_choice("Which?", ["red", "blue"]))
    Which?
    (A) red
    (B) blue
    """
    return "\n".join([question, *(f"({letter}) {text}" for letter, text in lettered(choices).items())])
