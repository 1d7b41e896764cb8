"""A question to a stream, answered from a fork of its memory."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hermes.attention import AttentionProbe
from hermes.backbone import Backbone
from hermes.decoding.execution import Execution
from hermes.decoding.generation import GenerationConfig
from hermes.decoding.observer import DecoderObserver
from hermes.decoding.prefill import prefill
from hermes.dialogue import QuestionConfig, Round, check_choices, multiple_choice
from hermes.errors import InputError, SettingError
from hermes.machine.device import synchronize
from hermes.memory import KVMemory
from hermes.policy import Recall
from hermes.session.answer import Answer, first_tokens
from hermes.session.stream import Stream
from hermes.tokens import Chunk, VideoState
from hermes.video import Frame

__all__ = ["answer_question", "check_question"]

# What a multiple-choice answer begins with: the next token is the letter.
_BEST = "Best option: ("
# Letters of a token, on average, in the longest text.
_LONGEST = 64
_SURROGATE = re.compile("[\ud800-\udfff]")


def check_question(
    backbone: Backbone,
    limits: QuestionConfig,
    question: str,
    choices: Sequence[str],
    correct: str | None,
    ids: Int[Tensor, "1 q"] | None,
    lead: str = "",
) -> None:
    """Refuse a question that cannot be asked.

    Raises:
        SettingError: it is longer than ``question.max_tokens``.
        InputError: it is empty or no text, has a single choice or too many, or a right answer that is none;
            options that begin with the same token, where the answer begins with ``lead``.
    """
    for text in (question, lead, *choices):
        if not isinstance(text, str) or _SURROGATE.search(text):
            raise InputError(f"no text that can be asked: {text!r:.80}; needed: a string of whole characters")
    if not question.strip() and ids is None:
        raise InputError("the question is empty")
    check_choices(choices, correct)
    if lead and ids is not None:
        raise InputError("the question's tokens are given, and so is what its answer begins with: give one")
    text, most = _text(question, choices, lead) + lead, limits.max_tokens
    # A text that is far too long is not cut into tokens first.
    given = len(text) // _LONGEST if ids is None else ids.shape[1]
    # A token is at least a byte.
    if ids is None and given <= most < len(text.encode()):
        given = backbone.count(text)
    if given > most:
        allowed = f"at most {most} tokens, the choices included"
        raise SettingError("question.max_tokens", f"a question of {given} tokens", allowed)
    if lead and choices:
        first_tokens(backbone.encode_plain, choices)


def _text(question: str, choices: Sequence[str], lead: str) -> str:
    # Behind a lead the options are words that may follow, and no letters.
    return multiple_choice(question, choices) if choices and not lead else question


def answer_question(
    stream: Stream,
    execution: Execution,
    generation: GenerationConfig,
    question: str,
    choices: Sequence[str] = (),
    *,
    correct: str | None = None,
    probe: AttentionProbe | None = None,
    watching: AttentionProbe | None = None,
    ids: Int[Tensor, "1 q"] | None = None,
    lead: str = "",
    **options: Any,
) -> Answer:
    """Answer from everything the stream's memory holds, which stays as it is; the round joins its history.

    Other arguments are those of :meth:`hermes.StreamSession.ask`.

    Args:
        probe: watches the question's attention; by default ``watching``.
        watching: watches what is encoded, also where the policy's ``recall`` encodes.

    """
    backbone = stream.backbone
    synchronize(backbone.device)
    started = time.perf_counter()
    fork, video = stream.memory.fork(), copy.copy(stream.video)
    encode = _encoder(stream, fork, video, watching)
    probe = probe or watching
    stream.policy.recall(Recall(fork, question, encode, DecoderObserver(backbone, fork)))
    read = fork.lengths
    if ids is None:
        ids = backbone.question_ids(_text(question, choices, lead), _BEST if choices and not lead else "")
    if lead:
        ids = torch.cat((ids, backbone.encode_plain(lead.rstrip())), dim=1)
        # The first token tells the option.
        options |= {"max_new_tokens": 1} if choices else {}
    closing = backbone.closing(video)
    if closing is not None:
        prefill(backbone, fork, Chunk.text(closing, backbone.axes), probe=probe)
    made = execution.generate(
        fork, ids, generation, started=started, probe=probe, seed=stream.seed, **options
    )
    asked = (question, choices, correct, lead)
    answer = Answer.of(backbone, made, stream.stats(), *asked, time_s=stream.now, read_per_layer=read)
    stream.context.remember(Round(question, answer.choice or answer.answer, tuple(choices)))
    stream.questions += 1
    return answer


def _encoder(
    stream: Stream, fork: KVMemory, video: VideoState, probe: AttentionProbe | None
) -> Callable[..., None]:
    """What a policy's ``recall`` encodes with: frames, or a chunk, at the end of the fork or of another."""

    def encode(piece: Sequence[Frame] | Chunk, into: KVMemory | None = None) -> None:
        if not isinstance(piece, Chunk) and piece:
            piece = stream.backbone.video(piece, video, fps=stream.fps)
        if isinstance(piece, Chunk):
            prefill(stream.backbone, fork if into is None else into, piece, probe=probe)

    return encode
