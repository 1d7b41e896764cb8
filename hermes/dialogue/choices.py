"""Multiple choice: the letters of options, what an answer means, and whether it is right."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

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
    "option_meant",
    "own_letters",
    "without_letter",
]

# A letter each.
MOST_CHOICES = len(string.ascii_uppercase)
# A letter as people write it down, with what follows; and one before an option's own text.
_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*(?:[)\].:,;\s-]+(.*))?", re.DOTALL)
_LABEL = re.compile(r"\s*\(?([A-Z])\s*[.):]\s*")


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


def option_meant(answer: str, choices: Sequence[str], *, letter_first: bool = False) -> str | None:
    """The option that a right answer names, word for word; None if it names none, or more than one.

    A text may differ from the option in case and in a full stop at its end; a letter may stand in brackets,
    with a mark, and with the option's text after it, which must be that of the letter. Where options have
    letters of their own that are not those of their places, a letter names none.

    Args:
        answer: as it is written down.
        choices: the options.
        letter_first: whether ``B`` is the letter where an option reads ``B``, too.

    >>> [option_meant(answer, ["river", "lake"]) for answer in ("b)", "(B).", "B: Lake.", " lake")]
    ['lake', 'lake', 'lake', 'lake']
    >>> option_meant("(B) river", ["river", "lake"]), option_meant("C", ["river", "lake"])
    (None, None)
    """
    by_text, by_letter = _by_text(answer, choices), _by_letter(answer, choices)
    first, second = (by_letter, by_text) if letter_first else (by_text, by_letter)
    return second if first is None else first


def own_letters(options: Sequence[object]) -> list[str]:
    """The letters that options have of their own, as ``(A) red``; none where one has none.

    >>> own_letters(["A. red", "(B) blue"]), own_letters(["A. red", "blue"])
    (['A', 'B'], [])
    """
    found = [_LABEL.match(option) if isinstance(option, str) else None for option in options]
    return [match[1] for match in found if match] if all(found) else []


def without_letter(option: str) -> str:
    """An option without a letter of its own.

    >>> without_letter("(B) blue")
    'blue'
    """
    match = _LABEL.match(option)
    return option[match.end() :] if match else option


def _by_text(answer: str, options: Sequence[str]) -> str | None:
    readings: list[Callable[[str], str]] = [str, str.strip, _bare]
    if options and own_letters(options) == letters(len(options)):
        readings.append(_own)
    for read in readings:
        found = {option for option in options if read(option) == read(answer)}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _by_letter(answer: str, options: Sequence[str]) -> str | None:
    letter, labels = _LETTER.fullmatch(answer.strip()), own_letters(options)
    option = lettered(options).get(letter[1].upper()) if letter else None
    if letter is None or option is None or (labels and labels != letters(len(options))):
        return None
    return option if _bare(letter[2] or "") in ("", _bare(option), _own(option)) else None


def _bare(text: str) -> str:
    return text.strip().removesuffix(".").rstrip().casefold()


def _own(option: str) -> str:
    return _bare(without_letter(option))


def is_correct(correct: str, given: str, choices: Sequence[str]) -> bool:
    """Whether an answer is right: by letter or option if there are choices, else by its words.

    Options that read the same are right together.

    >>> is_correct("red", "B", ["blue", "red"]), is_correct("(A)", "A", ["x", "y"])
    (True, True)
    >>> is_correct("Two.", "two", []), is_correct("x", "B", ["x", "x"])
    (True, True)
    """
    if choices:
        right = option_meant(correct, choices)
        return right is not None and lettered(choices).get(given) == right
    return correct.strip().casefold().rstrip(".") == given.strip().casefold().rstrip(".")


def check_choices(choices: Sequence[str], correct: str | None) -> None:
    """Refuse a multiple-choice question that cannot be asked or judged.

    Raises:
        InputError: a single choice or too many, or a right answer that is none of them.
    """
    if choices and not 2 <= len(choices) <= MOST_CHOICES:
        raise InputError(f"a multiple-choice question needs 2 to {MOST_CHOICES} choices, not {len(choices)}")
    if choices and correct is not None and option_meant(correct, choices) is None:
        raise InputError(f"the right answer {correct!r} is none of the choices: {', '.join(choices)}")


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """A question with its options listed as ``(A) ...`` (arXiv 2601.14724, App. B).

    >>> print(multiple_choice("Which?", ["red", "blue"]))
    Which?
    (A) red
    (B) blue
    """
    return "\n".join([question, *(f"({letter}) {text}" for letter, text in lettered(choices).items())])
