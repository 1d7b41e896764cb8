"""Guidance prompts (pseudo-queries) and the wording of questions, all of it settings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hermes.config import Settings, setting
from hermes.dialogue.rounds import Round
from hermes.errors import SettingError

PROMPT_KINDS = ("local", "global", "mixed")


@dataclass
class GuidancePrompts(Settings):
    """The pseudo-queries of the hierarchy (settings ``policy.prompts.*``).

    Source: arXiv 2601.14724, Sec. 3.1. The wording is ours; the paper prints its own in App. B, Figs
    7 to 10. The mixed prompt is the two joined by ``joint``. After a question, both are preceded by a
    reminder of the last round.

    Raises:
        SettingError: a history text with other fields than {question} and {answer}.

    >>> GuidancePrompts(local_text="What now?", global_text="What so far?").render("mixed")
    'What now?; What so far?'
    """

    local_text: str = setting(
        "Describe the current scene in detail: the objects, what each is doing, and where they are in "
        "relation to each other.",
        help="pseudo-query of the recent scene",
    )
    global_text: str = setting(
        "Summarise the whole video so far: the main characters, the key events, how things changed over "
        "time, and the theme.",
        help="pseudo-query of the whole stream",
    )
    joint: str = setting("; ", help="what joins the two in the mixed prompt")
    local_history: str = setting(
        "Find recent details related to the last round: Question: {question} Answer: {answer} ",
        help="put before the local prompt after an answer; {question} and {answer} are filled in",
    )
    global_history: str = setting(
        "Context of the last round: Question: {question} Answer: {answer} ",
        help="put before the global prompt after an answer",
    )

    def __post_init__(self) -> None:
        for name in ("local_text", "global_text"):
            if not getattr(self, name).strip():
                raise SettingError(name, getattr(self, name), "a text: its attention scores the tokens")
        for name in ("local_history", "global_history"):
            try:
                getattr(self, name).format(question="", answer="")
            except (KeyError, IndexError, ValueError):
                raise SettingError(name, getattr(self, name), "a text with {question} and {answer}") from None

    def render(self, kind: str, last: Round | None = None) -> str:
        """The prompt of one kind: ``local``, ``global`` or ``mixed``."""
        local, overall = self.local_text, self.global_text
        if last is not None:
            fields = {"question": last.question, "answer": last.answer_text}
            local = self.local_history.format(**fields) + local
            overall = self.global_history.format(**fields) + overall
        return {"local": local, "global": overall, "mixed": local + self.joint + overall}[kind]

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each prompt, without history: what a record states instead of the text."""
        return {kind: hashlib.sha256(self.render(kind).encode()).hexdigest() for kind in PROMPT_KINDS}
