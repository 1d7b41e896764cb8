"""Sessions: streaming against one forward pass, questions and answers, callbacks, recall."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from hermes.decoding.generation import GeneratedRepetitionPenalty
from hermes.errors import SettingError
from hermes.memory import KVMemory, MemoryConfig
from hermes.policies.fifo import Fifo
from hermes.policies.full import Full
from hermes.policies.hermes import Hermes
from hermes.policies.random import Random
from hermes.tokens import VideoState
from hermes.video import Frame
from tests.support.references import DenseDecoder, cloned, identical, tiny
from tests.support.streaming_cases import PLAIN, QUESTION, Raw, family, frames, session_on
from tests.support.tolerances import close

pytestmark = pytest.mark.model


def stock(backbone, cuts: list[list[Frame]], ids: torch.Tensor, fps: float):
    """One forward of everything with the model's own attention: keys, values, and logits of the text."""
    state = VideoState()
    chunks = [backbone.prefix(state), *(backbone.video(cut, state, fps=fps) for cut in cuts)]
    clock, positions = 0, []
    for chunk in chunks:
        positions.append(chunk.positions + clock)
        clock += chunk.advance
    positions.append((clock + torch.arange(ids.shape[1])).expand(backbone.axes, -1))
    where = torch.cat(positions, dim=1)
    embeds = torch.cat([*(chunk.embeds for chunk in chunks), backbone.embed(ids)], dim=1)
    extra = {}
    if any(chunk.deepstack for chunk in chunks):
        kinds = torch.cat([*(chunk.tokens.kind for chunk in chunks), torch.full((ids.shape[1],), 4)])
        extra["visual_pos_masks"] = (kinds == 1)[None]
        extra["deepstack_visual_embeds"] = [
            torch.cat([chunk.deepstack[level][0, chunk.tokens.kind == 1] for chunk in chunks[1:]])
            for level in range(len(chunks[1].deepstack))
        ]
    cache = DynamicCache(config=backbone.text_config)
    with torch.no_grad():
        out = backbone.decoder(
            inputs_embeds=embeds,
            position_ids=where if backbone.axes == 1 else where[:, None],
            past_key_values=cache,
            use_cache=True,
            **extra,
        )
        logits = backbone.model.lm_head(out.last_hidden_state[0, -ids.shape[1] :])
    return cache, logits


def question_ids(backbone) -> torch.Tensor:
    return backbone.encode(backbone.question_text(QUESTION))


# -- streaming against one shot ----------------------------------------------------------------------------


@family
@pytest.mark.parametrize("cuts", [[8], [4, 4], [2, 2, 2, 2], [2, 6], [6, 2]], ids=str)
def test_streaming_is_one_forward_of_the_same_embeddings(family, cuts):
    backbone, stream = tiny(family), frames(8)
    pieces = [stream[sum(cuts[:i]) : sum(cuts[: i + 1])] for i in range(len(cuts))]
    session = session_on(family, Hermes(budget=10**4))
    for piece in pieces:
        session.feed(piece)
        session.flush()
    ids, raw = question_ids(backbone), Raw()
    # Fed in pieces of at most four.
    parts = [piece[i : i + 4] for piece in pieces for i in range(0, len(piece), 4)]
    cache, logits = stock(backbone, parts, ids, session.fps)
    for layer, held in zip(cache.layers, session.memory, strict=True):
        close("one_shot_keys", held.keys, layer.keys[:, :, : held.length])
        close("one_shot", held.values, layer.values[:, :, : held.length])
    answer = session.ask(QUESTION, processors=[raw])
    # Greedy decoding again, by one whole forward a token.
    for step, token in enumerate(answer.ids.tolist()):
        close("one_shot", raw.seen[step], logits[-1])
        assert int(logits[-1].argmax()) == token
        ids = torch.cat((ids, torch.tensor([[token]])), dim=1)
        _, logits = stock(backbone, parts, ids, session.fps)


@family
def test_how_frames_are_handed_over_does_not_matter(family):
    states = []
    for groups in ([frames(11)], [[frame] for frame in frames(11)], [frames(11)[:3], iter(frames(11)[3:])]):
        session = session_on(family, Random(budget=30))
        for group in groups:
            session.feed(group)
        assert len(session.waiting) == 3
        session.flush()
        assert session.waiting == []
        states.append(cloned(session.memory))
    assert all(torch.equal(a, b) for state in states[1:] for a, b in zip(states[0], state, strict=True))


@family
def test_frames_that_wait_are_encoded_before_a_question(family):
    session = session_on(family)
    session.feed(frames(6))
    before = session.memory.lengths[0]
    assert session.frames_seen == 4
    session.ask(QUESTION)
    assert session.frames_seen == 6
    assert session.memory.lengths[0] > before


@family
def test_keys_kept_as_written_give_the_same_answers(family):
    """In float32 a second copy of the keys changes rounding only."""
    states = []
    for keep in (False, True):
        session = session_on(family, Hermes(budget=40), memory=MemoryConfig(keep_written=keep))
        session.context.max_position = 1024 + 110
        session.feed(frames(48))
        assert session.memory.largest_position() < 110
        states.append((session.memory, session.ask(QUESTION).ids.tolist()))
    (plain, answer), (written, other) = states
    assert answer == other
    for a, b in zip(plain, written, strict=True):
        assert torch.equal(a.origin.table, b.origin.table)
        assert torch.equal(a.positions, b.positions)
        close("kept_keys", a.keys, b.keys)
    assert written.memory_bytes > plain.memory_bytes


# -- generation --------------------------------------------------------------------------------------------


@family
def test_the_penalty_is_on_generated_tokens_only(family):
    backbone, session = tiny(family), session_on(family)
    session.feed(frames(4))
    raw, penalty = Raw(), 1.9
    answer = session.ask(QUESTION, processors=[raw], max_new_tokens=12, repetition_penalty=penalty)
    seen: list[int] = []
    for logits, token in zip(raw.seen, answer.ids.tolist(), strict=True):
        adjusted = logits.tolist()
        for old in set(seen):
            adjusted[old] = adjusted[old] * penalty if adjusted[old] < 0 else adjusted[old] / penalty
        assert token == int(np.argmax(adjusted))
        seen.append(token)
    prompt = set(backbone.encode(backbone.question_text(QUESTION))[0].tolist())
    scores = torch.randn(1, 600)
    untouched = GeneratedRepetitionPenalty(penalty, prompt_length=3)(torch.tensor([[1, 2, 3]]), scores)
    assert torch.equal(untouched, scores)
    assert prompt


@family
def test_options_and_their_probabilities(family):
    backbone, session, choices = tiny(family), session_on(family), ["red", "green", "blue"]
    session.feed(frames(4))
    answer = session.ask("Which colour is it?", choices, correct="blue")
    ids = backbone.encode(
        backbone.question_text("Which colour is it?\n(A) red\n(B) green\n(C) blue", "Best option: (")
    )
    _, logits = stock(backbone, [frames(4)], ids, session.fps)
    letters = [int(backbone.encode(letter)[0, -1]) for letter in "ABC"]
    expected = logits[-1, letters].softmax(-1)
    assert list(answer.probabilities) == ["A", "B", "C"]
    close("one_shot", torch.tensor(list(answer.probabilities.values())), expected)
    assert answer.choice == "ABC"[int(expected.argmax())]
    assert answer.correct == (answer.choice == "C")
    assert session.ask("Which?", choices, correct=answer.choice).correct is not None
    assert session.ask(QUESTION).choice is None


@family
def test_streamed_pieces_join_to_the_answer(family):
    """The tiny models' answers are full of broken UTF-8; none of it is lost or said twice."""
    session = session_on(family)
    session.feed(frames(4))
    for count in (1, 2, 3, 17, 40):
        pieces: list[str] = []
        answer = session.ask(QUESTION, on_text=pieces.append, max_new_tokens=count)
        assert "".join(pieces) == tiny(family).decode(answer.ids)
        assert "".join(pieces).strip() == answer.answer
        assert "" not in pieces


@family
def test_an_answer_says_what_it_cost(family):
    session = session_on(family, Fifo(budget=20))
    session.feed(frames(12, fps=session.fps))
    answer = session.ask(QUESTION, max_new_tokens=4)
    assert answer.question == QUESTION
    assert answer.frames_seen == 12
    assert answer.time_s == pytest.approx(12 / session.fps)
    assert answer.tokens_per_layer == [session.memory.prefix + 20] * 10
    assert answer.memory_bytes == sum(t.numel() * t.element_size() for t in session.memory.state())
    assert 0 < answer.ttft_ms < 60_000
    assert answer.tpot_ms > 0
    assert answer.peak_memory_bytes > answer.memory_bytes
    stats = session.stats()
    assert (stats.frames, stats.chunks, stats.questions) == (12, 3, 1)
    assert session.ask(QUESTION, max_new_tokens=1).tpot_ms is None


def test_sampling_follows_the_seed():
    answers = {}
    for seed in (0, 0, 1, 2):
        session = session_on("llava_onevision", seed=seed)
        session.feed(frames(4))
        state = torch.get_rng_state()
        ids = session.ask(QUESTION, do_sample=True, temperature=5.0, max_new_tokens=8).ids.tolist()
        assert torch.equal(torch.get_rng_state(), state)
        assert answers.setdefault(seed, ids) == ids
    assert len({tuple(ids) for ids in answers.values()}) == 3


def test_a_tiny_nucleus_is_greedy():
    session = session_on("llava_onevision")
    session.feed(frames(4))
    greedy = session.ask(QUESTION).ids.tolist()
    assert session.ask(QUESTION, do_sample=True, top_p=1e-6).ids.tolist() == greedy


@family
@pytest.mark.parametrize("budget", [10**4, 25], ids=["full", "ragged"])
def test_beams_are_those_of_a_plain_beam_search(family, budget):
    """Two beams, three tokens, over a memory whose layers are at different clocks."""
    backbone = tiny(family)
    session = session_on(family, Hermes(budget=budget) if budget < 100 else Full())
    session.feed(frames(8))
    dense = of_memory(backbone, session.memory)
    ids = question_ids(backbone)
    never = backbone.tokenizer.eos_token_id

    def next_scores(tail: list[int]) -> torch.Tensor:
        text = torch.cat((ids, torch.tensor([tail], dtype=torch.long)), dim=1)
        hidden, _ = dense.run(backbone.embed(text)[0], torch.arange(text.shape[1]).expand(backbone.axes, -1))
        return (hidden[-1].float() @ backbone.model.lm_head.weight.T).log_softmax(-1)

    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(3):
        grown = []
        for score, tail in beams:
            step = next_scores(tail)
            step[never] = float("-inf")
            grown += [(score + float(s), [*tail, int(t)]) for s, t in zip(*step.topk(2), strict=True)]
        beams = sorted(grown, reverse=True)[:2]
    before = cloned(session.memory)
    answer = session.ask(QUESTION, num_beams=2, max_new_tokens=3, suppress_tokens=[never])
    assert identical(session.memory, before)
    assert answer.ids.tolist() == beams[0][1]


def of_memory(backbone, memory: KVMemory) -> DenseDecoder:
    """The dense reference of whatever a memory holds, its keys turned back."""
    dense = DenseDecoder(backbone)
    for layer, heads in zip(memory, dense.memory.layers, strict=True):
        for number, head in enumerate(heads):
            row = number if layer.rows > 1 else 0
            positions = layer.positions[:, 0, row]
            plain = backbone.rotary.rotate(
                layer.keys[:, number : number + 1], -layer.positions[:, :, row : row + 1]
            )
            head.write(
                plain[0, 0], layer.values[0, number], positions, [0] * layer.length, [1] * layer.length
            )
    return dense


def test_generate_takes_what_transformers_takes():
    session = session_on("llava_onevision")
    session.feed(frames(4))
    ids = session.ask(QUESTION, max_new_tokens=6).ids.tolist()
    assert session.ask(QUESTION, max_new_tokens=6, bad_words_ids=[[ids[0]]]).ids.tolist()[0] != ids[0]
    assert (
        session.ask(QUESTION, max_new_tokens=6, eos_token_id=ids[2]).ids.tolist()
        == ids[: ids.index(ids[2]) + 1]
    )
    assert session.generation == PLAIN
    for option in ({"use_cache": False}, {"prefill_chunk_size": 4}, {"return_dict_in_generate": True}):
        with pytest.raises(SettingError, match=rf"generation\.{next(iter(option))}"):
            session.ask(QUESTION, **option)


@family
def test_speculative_decoding_is_greedy_decoding(family, monkeypatch):
    """Prompt lookup guesses tokens and takes back those that were wrong."""
    session, cropped, crop = session_on(family, Hermes(budget=40)), [], KVMemory.crop
    session.feed(frames(12))
    monkeypatch.setattr(KVMemory, "crop", lambda memory, count: cropped.append(count) or crop(memory, count))
    ids = session.ask(QUESTION, max_new_tokens=40).ids.tolist()
    assert session.ask(QUESTION, max_new_tokens=40, prompt_lookup_num_tokens=4).ids.tolist() == ids
    assert min(cropped) < 0
