"""Sessions: streaming against one forward pass, questions and answers, callbacks, recall."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LogitsProcessor

from hermes import open_session
from hermes.attention import installed
from hermes.backbone import VideoState
from hermes.callback import Callback
from hermes.errors import InputError, SettingError
from hermes.generation import GeneratedRepetitionPenalty, GenerationConfig
from hermes.memory import KVMemory, MemoryConfig
from hermes.observe import Observer
from hermes.policy import Recall
from hermes.session import StreamSession
from hermes.video import Frame
from policies.fifo import Fifo
from policies.full import Full
from policies.hermes import Hermes
from policies.random import Random
from tests.references import FAMILIES, DenseDecoder, cloned, identical, tiny
from tests.tolerances import close

pytestmark = pytest.mark.model

family = pytest.mark.parametrize("family", FAMILIES)
QUESTION = "What is the person doing now?"
PLAIN = GenerationConfig(max_new_tokens=5, repetition_penalty=1.0)


def frames(count: int, fps: float = 2.0, seed: int = 0) -> list[Frame]:
    images = np.random.default_rng(seed).integers(0, 256, (count, 84, 84, 3), dtype=np.uint8)
    return [Frame(image, i / fps, i) for i, image in enumerate(images)]


def session_on(name: str, policy=None, **options) -> StreamSession:
    return StreamSession(tiny(name), policy or Full(), **{"chunk_frames": 4, "generation": PLAIN, **options})


class Raw(LogitsProcessor):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, input_ids, scores):
        self.seen.append(scores[0].clone())
        return scores


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
        assert torch.equal(a.held.table, b.held.table)
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
            plain = backbone.rotary.turn(
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


# -- callbacks, recall, history ----------------------------------------------------------------------------


@dataclass
class Log(Callback):
    events: list[str] = field(default_factory=list, init=False)

    def on_encode_start(self, session, frames):
        self.events.append(f"encode {len(frames)}")

    def on_encode_end(self, session, chunk):
        self.events.append(f"encoded {session.memory.lengths[0]}")

    def on_compress_start(self, session):
        self.events.append("compress")

    def on_compress_end(self, session, changed):
        self.events.append(f"compressed {changed} {session.memory.lengths[0]}")

    def on_ask_start(self, session, question):
        self.events.append(f"ask {question}")

    def on_ask_end(self, session, answer):
        self.events.append(f"answered {answer.question}")


def test_callbacks_are_called_in_order():
    log = Log()
    session = session_on("llava_onevision", Fifo(budget=60), callbacks=[Callback(), log])
    session.feed(frames(9))
    session.ask("Why?")
    p = session.memory.prefix
    chunk = ["encode 4", f"encoded {p + 36}", "compress", f"compressed False {p + 36}"]
    full = ["encode 4", f"encoded {p + 72}", "compress", f"compressed True {p + 60}"]
    rest = ["encode 1", f"encoded {p + 69}", "compress", f"compressed True {p + 60}"]
    assert log.events == [*chunk, *full, *rest, "ask Why?", "answered Why?"]
    log.events.clear()
    session.feed_chunk(session.backbone.video(frames(1), VideoState(next_id=500), fps=1.0))
    assert log.events == ["encode 0", *rest[1:]]


@dataclass
class Forgets(Fifo):
    """Answers from three tokens, and from what it encodes at the question."""

    budget: int = 50
    frames_at_question: list[Frame] = field(default_factory=list, init=False, compare=False)

    def recall(self, call: Recall) -> None:
        call.memory.apply(
            {layer.index: layer.keeping(torch.arange(3)) for layer in call.memory}, compact=True
        )
        call.encode(self.frames_at_question)


@family
def test_recall_changes_the_answer_and_not_the_memory(family):
    plain, forgets = (session_on(family, policy) for policy in (Fifo(budget=50), Forgets()))
    for session in (plain, forgets):
        session.feed(frames(12))
    before = cloned(forgets.memory)
    raws = [Raw() for _ in range(3)]
    plain.ask(QUESTION, processors=[raws[0]])
    forgets.ask(QUESTION, processors=[raws[1]])
    forgets.policy.frames_at_question = frames(2, seed=9)
    forgets.ask(QUESTION, processors=[raws[2]])
    assert identical(forgets.memory, before)
    assert not torch.allclose(raws[0].seen[0], raws[1].seen[0])
    assert not torch.allclose(raws[1].seen[0], raws[2].seen[0])
    # What was recalled is what a session with just that would hold.
    tail = session_on(family, Forgets())
    tail.feed(frames(12))
    tail.memory.apply({layer.index: layer.keeping(torch.arange(3)) for layer in tail.memory}, compact=True)
    tail.policy.recall = lambda call: None
    raw = Raw()
    tail.ask(QUESTION, processors=[raw])
    close("one_shot", raw.seen[0], raws[1].seen[0])


def test_the_last_round_leads_the_guidance_prompts():
    session, texts = session_on("llava_onevision", Hermes(budget=40)), []

    class Asked(Observer):
        def attention(self, requests):
            texts.append({guidance.text for wanted in requests.values() for guidance in wanted})
            return super().attention(requests)

    session.observer = Asked(session.backbone, session.memory)
    session.feed(frames(8))
    session.ask("Which colour?", ["red", "blue"])
    chosen = session.context.history[-1]
    assert chosen.answer in ("A", "B")
    session.feed(frames(4))
    last = chosen.choices["AB".index(chosen.answer)]
    prompts = session.policy.prompts
    assert texts[0] == {prompts.local_text + "; " + prompts.global_text, prompts.global_text}
    assert texts[-1] == {prompts.render("mixed", chosen), prompts.render("global", chosen)}
    assert all(f"Question: Which colour? Answer: {last}" in text for text in texts[-1])


# -- a session's life --------------------------------------------------------------------------------------


def test_two_sessions_on_one_model_share_it():
    one, two = (
        session_on("llava_onevision", Hermes(budget=40)),
        session_on("llava_onevision", Fifo(budget=30)),
    )
    alone = session_on("llava_onevision", Hermes(budget=40))
    alone.feed(frames(12))
    model = one.backbone.model
    with one:
        one.feed(frames(12)[:6])
        with two:
            two.feed(frames(8, seed=3))
            one.feed(frames(12)[6:])
            two.ask(QUESTION)
        assert model.config.get_text_config()._attn_implementation == "hermes_memory"
        one.ask(QUESTION)
    assert model.config.get_text_config()._attn_implementation == "sdpa"
    assert identical(one.memory, cloned(alone.memory))
    one.close()
    with installed(model):
        pass
    assert model.config.get_text_config()._attn_implementation == "sdpa"


def test_sessions_on_one_model_in_threads_of_their_own():
    def streamed(seed: int) -> tuple[list[torch.Tensor], list[int]]:
        session = session_on("llava_onevision", Hermes(budget=40))
        session.feed(frames(24, seed=seed))
        return cloned(session.memory), session.ask(QUESTION).ids.tolist()

    alone = [streamed(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(streamed, range(3)))
    for (state, ids), (expected, expected_ids) in zip(together, alone, strict=True):
        assert ids == expected_ids
        assert all(torch.equal(a, b) for a, b in zip(state, expected, strict=True))
    assert tiny("llava_onevision").text_config._attn_implementation == "sdpa"


@family
def test_a_saved_stream_is_resumed_in_another_session(family, tmp_path):
    whole, first, second = (session_on(family, Hermes(budget=40)) for _ in range(3))
    stream = frames(24)
    for session in (whole, first):
        session.feed(stream[:14])
        session.ask("Which colour?", ["red", "blue"])
    first.save(tmp_path)
    second.resume(tmp_path)
    assert identical(second.memory, cloned(first.memory))
    assert second.context.history == first.context.history
    assert (second.frames_seen, second.now) == (14, first.now)
    for session in (whole, second):
        session.feed(stream[14:])
        session.flush()
    assert identical(second.memory, cloned(whole.memory))
    assert second.ask(QUESTION).ids.tolist() == whole.ask(QUESTION).ids.tolist()
    with pytest.raises(InputError):
        session_on(family, Hermes(budget=40)).resume(tmp_path / "nowhere")
    first.memory.save(tmp_path / "memory")
    with pytest.raises(InputError, match="not a stream"):
        second.resume(tmp_path / "memory")


def test_a_policy_serves_one_stream():
    policy = Random(budget=30)
    one = session_on("llava_onevision", policy)
    two = session_on("llava_onevision", policy)
    assert one.policy is policy
    assert two.policy is not policy
    assert two.policy == policy
    assert two.policy.context is not one.policy.context


def test_leaving_the_decoders_range_is_said_once(caplog):
    session = session_on("llava_onevision")
    session.backbone.text_config.max_position_embeddings = 100
    try:
        with caplog.at_level(logging.WARNING):
            session.feed(frames(16))
    finally:
        session.backbone.text_config.max_position_embeddings = 32768
    assert [record.getMessage().count("100") for record in caplog.records] == [1]


def test_questions_at_given_times_see_the_frames_before_them():
    session = session_on("llava_onevision", fps=2.0)
    stops = session.watch(frames(12), [4.0, 0.5, 1.25, 99.0])
    assert [(at, session.frames_seen) for at in stops] == [(0.5, 1), (1.25, 3), (4.0, 8), (99.0, 12)]


@family
def test_frames_of_a_failed_chunk_wait_for_the_next_call(family):
    session, whole = session_on(family, Random(budget=30)), session_on(family, Random(budget=30))
    whole.feed(frames(12))
    session.feed(frames(12)[:4])
    handle = session.backbone.decoder.layers[5].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.feed(frames(12)[4:8])
    handle.remove()
    assert session.frames_seen == 4
    session.flush()
    session.feed(frames(12)[8:])
    assert identical(session.memory, cloned(whole.memory))
    assert session.frames_seen == 12


def test_a_chunk_that_fails_is_not_counted():
    session = session_on("llava_onevision")
    chunk = session.backbone.video(frames(4), VideoState(next_id=100), fps=1.0)
    handle = session.backbone.decoder.layers[5].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.feed_chunk(chunk)
    handle.remove()
    assert (session.frames_seen, session.now) == (0, 0.0)
    session.feed_chunk(chunk)
    assert session.frames_seen == 4


@family
def test_frames_that_cannot_be_encoded_do_not_block_the_stream(family):
    session, whole = session_on(family), session_on(family)
    session.feed(frames(4))
    wide = Frame(np.zeros((40, 120, 3), np.uint8), 2.0, 4)
    with pytest.raises(InputError, match="one size"):
        session.feed([wide, *frames(8)[5:]])
    assert session.waiting == []
    assert session.frames_seen == 4
    session.feed(frames(12)[8:])
    whole.feed([*frames(4), *frames(12)[8:]])
    assert identical(session.memory, cloned(whole.memory))


def test_what_is_refused():
    session = session_on("llava_onevision", Fifo(budget=20))
    with pytest.raises(InputError, match="no frame"):
        session.ask(QUESTION)
    with pytest.raises(InputError, match="empty"):
        session.ask("  ")
    session.feed(frames(4))
    with pytest.raises(InputError, match="2 to 26 choices"):
        session.ask(QUESTION, ["yes"])
    for name, chunk_frames in (("llava_onevision", 0), ("qwen2_5_vl", 3), ("qwen3_vl", 1)):
        with pytest.raises(SettingError, match=r"stream\.chunk_frames"):
            session_on(name, chunk_frames=chunk_frames)
    with pytest.raises(SettingError, match=r"policy\.budget: got 8; allowed: at least 9"):
        session_on("llava_onevision", Fifo(budget=8)).feed(frames(4))
    session_on("llava_onevision", Fifo(budget=9)).feed(frames(4))
    pair = session_on("llava_onevision")
    chunk = pair.backbone.video(frames(4), VideoState(next_id=100), fps=1.0)
    pair.feed_chunk(type(chunk)(**{**vars(chunk), "embeds": chunk.embeds.expand(2, -1, -1)}))
    with pytest.raises(InputError, match="2 streams"):
        pair.ask(QUESTION)


def test_a_session_in_a_few_lines():
    with open_session(
        tiny("qwen3_vl"), "hermes", 64, overrides=["stream.chunk_frames=2", "seed=3"]
    ) as session:
        session.feed(frames(16))
        answer = session.ask("What is happening?", max_new_tokens=3)
    assert (session.chunk_frames, session.seed) == (2, 3)
    assert answer.tokens_per_layer == [session.memory.prefix + 64] * 10
    policy = Fifo(budget=99)
    assert open_session(tiny("qwen3_vl"), policy).policy is policy
    assert open_session(tiny("qwen3_vl"), policy, 40).policy == Fifo(budget=40)
    assert policy.budget == 99
