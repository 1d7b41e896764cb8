"""Multiple choice: the letters of options, what an answer means, and whether it is right."""

from __future__ import annotations

from collections.abc import Sequence

from hermes.dialogue.rounds import Round
from hermes.errors import InputError


def choice_of(text: str, choices: Sequence[str]) -> str | None:
    """The letter a text means, ``B``, ``(B)`` or an option's own text; None if it means none.

    >>> choice_of("(B) blue", ["red", "blue"]), choice_of("red", ["red", "blue"]), choice_of("green", ["red"])
    ('B', 'A', None)
    """
    names = letters(len(choices))
    if text in choices:
        return names[list(choices).index(text)]
    meant = Round("", text, tuple(choices)).answer_text
    return names[list(choices).index(meant)] if meant in choices else None


def is_correct(correct: str, given: str, choices: Sequence[str]) -> bool:
    """Whether an answer is right: by letter or option if there are choices, else by its words.

    Options that read the same are right together.

    >>> is_correct("red", "B", ["blue", "red"]), is_correct("(A)", "A", ["x", "y"])
    (True, True)
    >>> is_correct("Two.", "two", []), is_correct("x", "B", ["x", "x"])
    (True, True)
    """
    if choices:
        options = dict(zip(letters(len(choices)), choices, strict=True))
        right = choice_of(correct, choices)
        return right is not None and options.get(given) == options[right]
    return correct.strip().casefold().rstrip(".") == given.strip().casefold().rstrip(".")


def check_choices(choices: Sequence[str], correct: str | None) -> None:
    """Refuse a multiple-choice question that cannot be asked or judged.

    Raises:
        InputError: a single choice or too many, or a right answer that is none of them.
    """
    if choices and not 2 <= len(choices) <= 26:
        raise InputError(f"a multiple-choice question needs 2 to 26 choices, not {len(choices)}")
    if choices and correct is not None and choice_of(correct, choices) is None:
        raise InputError(f"the right answer {correct!r} is none of the choices: {', '.join(choices)}")


def letters(count: int) -> list[str]:
    """Option letters from A on, ``count`` of them."""
    return [chr(ord("A") + i) for i in range(count)]


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """A question with its options listed as ``(A) ...`` (arXiv 2601.14724, App. B).

    >>> print(multiple_choice("Which?", ["red", "blue"]))
    Which?
    (A) red
    (B) blue
    """
    return "\n".join(
        [
            question,
            *(f"({letter}) {text}" for letter, text in zip(letters(len(choices)), choices, strict=True)),
        ]
    )
