"""Text decoders: any causal language model behind the same session, a frame being a text with a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hermes import open_session
from hermes.backbone import Backbone, load_backbone
from hermes.backbones.text import Text
from hermes.errors import InputError, SettingError, UnsupportedModelError
from hermes.policies.full import Full
from hermes.policies.hermes import Hermes
from hermes.policy import MemoryPolicy
from hermes.registry import registry
from hermes.session.session import StreamSession
from hermes.testing import CLAUSES, Trial, over_policies
from hermes.tokens import TokenKind, VideoState
from hermes.video import Caption
from tests.session.test_streaming import of_memory
from tests.support.streaming_cases import PLAIN, Raw
from tests.support.tiny_text import CHAT, SERVED, text_model, write_text_model
from tests.support.tolerances import close

pytestmark = pytest.mark.model

QUESTION = "Who is there now?"
# Policies that work on pictures.
SEEING = {"dscache", "hermes_recent", "recent", "streamingtom"}


def texts(count: int, seed: int = 0) -> list[Caption]:
    """Pieces of different lengths, at times of their own."""
    random = np.random.default_rng(seed)
    words = ["rain", "a person", "what", "the question", "scene", "It", "changes", "now", "7", "é"]
    times = np.cumsum(random.uniform(0.1, 3, count))
    said = [" ".join(random.choice(words, random.integers(1, 7))) for _ in range(count)]
    return [Caption(float(time), text=text) for time, text in zip(times, said, strict=True)]


def session_on(backbone: Backbone, policy: MemoryPolicy | None = None, **options) -> StreamSession:
    return StreamSession(backbone, policy or Full(), **{"chunk_frames": 4, "generation": PLAIN, **options})


@pytest.mark.parametrize(
    ("model_type", "layout"), [*((name, "stream") for name in SERVED), ("llama", "native")]
)
def test_chunk_by_chunk_is_what_stock_generate_does_with_the_same_ids(model_type, layout):
    backbone = text_model(model_type, layout)
    assert type(backbone) is Text
    stream = texts(10)
    session, raw = session_on(backbone), Raw()
    for piece in (stream[:3], stream[3:9], stream[9:]):
        session.feed(piece)
        session.flush()
    answer = session.ask(QUESTION, logits_processor=[raw], max_new_tokens=16, min_new_tokens=16)

    lines = "".join(f"[{one.time:.1f} s] {one.text}\n" for one in stream)
    system = "You are a helpful assistant."
    messages = [{"role": "system", "content": system}, {"role": "user", "content": f"{lines}\n{QUESTION}"}]
    stock = backbone.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    held = [backbone.prefix(VideoState()), backbone.video(stream, VideoState(), fps=1.0)]
    text = backbone.prefix_text() + lines + backbone.question_text(QUESTION)
    assert text == stock
    table = backbone.embed(torch.arange(backbone.text_config.vocab_size)[None])[0]
    ids = [int((row - table).abs().sum(-1).argmin()) for chunk in held for row in chunk.embeds[0]]
    prompt = torch.tensor([[*ids, *backbone.question_ids(QUESTION)[0].tolist()]])
    assert backbone.tokenizer.decode(prompt[0]) == stock

    model = AutoModelForCausalLM.from_pretrained(backbone.config.checkpoint)
    out = model.generate(
        prompt,
        max_new_tokens=16,
        min_new_tokens=16,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert answer.ids.tolist() == out.sequences[0, prompt.shape[1] :].tolist()
    assert len(raw.seen) == 16
    for ours, theirs in zip(raw.seen, out.scores, strict=True):
        # The end of the answer is ruled out in both.
        close("one_shot", ours.clamp(min=-1e3), theirs[0].clamp(min=-1e3))


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "mistral"])
def test_with_eviction_the_ragged_memory_answers_as_the_dense_reference(model_type):
    backbone = text_model(model_type)
    session, raw = session_on(backbone, Hermes(budget=40)), Raw()
    session.feed(texts(30))
    session.flush()
    assert {layer.video_length for layer in session.memory} == {40}
    dense = of_memory(backbone, session.memory)
    ids = backbone.question_ids(QUESTION)
    where = torch.arange(ids.shape[1], dtype=torch.float32)[None]
    hidden, _ = dense.run(backbone.embed(ids)[0], where)
    expected = hidden[-1].float() @ backbone.model.lm_head.weight.float().T
    session.ask(QUESTION, logits_processor=[raw], max_new_tokens=1)
    close("one_shot", raw.seen[0], expected)


CHEAP = ("budget_is_kept", "keys_are_rope_from_scratch")


@over_policies()
@pytest.mark.parametrize(
    "clauses",
    [
        pytest.param([one for one in CLAUSES if one.__name__ in CHEAP], id="some"),
        pytest.param(
            [one for one in CLAUSES if one.__name__ not in CHEAP], id="rest", marks=pytest.mark.thorough
        ),
    ],
)
def test_every_policy_that_needs_no_pictures_keeps_the_contract_on_text(policy, clauses):
    backbone = text_model("qwen3")
    if policy in SEEING:
        with pytest.raises(SettingError, match=r"policy: got '\w+'; allowed: for a text model"):
            open_session(backbone, policy)
        return
    trial = Trial(policy, backbone)
    for clause in clauses:
        clause(trial)


def test_what_works_on_pictures_is_refused_by_its_settings_too():
    assert set(registry("policy").names()) > SEEING
    backbone = text_model("llama")
    open_session(backbone, "dtd")
    for policy in ({"name": "dtd", "mode": "pixel"}, {"name": "archived", "inner": {"name": "recent"}}):
        with pytest.raises(SettingError, match="works on pictures"):
            open_session(backbone, policy)


def test_tokens_know_their_text_and_its_time():
    backbone, stream = text_model("llama"), texts(5)
    session = session_on(backbone)
    session.feed(stream)
    session.flush()
    held = session.memory[0].video
    assert held.id[0, 0].tolist() == list(range(session.memory.prefix, session.memory.prefix + len(held)))
    assert held.frame[0, 0].unique_consecutive().tolist() == list(range(5))
    for number, one in enumerate(stream):
        own = held.frame[0, 0] == number
        assert held.time[0, 0][own].unique().tolist() == [round(one.time, 6)]
        kinds = held.kind[0, 0][own]
        stamp = backbone.encode(f"[{one.time:.1f} s]").shape[1]
        assert kinds.tolist() == [int(TokenKind.TIMESTAMP)] * stamp + [int(TokenKind.VISUAL)] * (
            len(kinds) - stamp
        )
        assert held.col[0, 0][own][stamp:].tolist() == list(range(len(kinds) - stamp))
    assert session.now == pytest.approx(stream[-1].time + 1)


def test_times_are_written_or_not_and_line_breaks_and_control_tokens_are_plain_text():
    one = Caption(3.25, text=" two\nlines <|im_end|>\t")
    for written, start in ((True, "[3.2 s] two"), (False, "two")):
        backbone = text_model("llama", written_times=written)
        ids = backbone.encode_plain(f"{start} lines <|im_end|>\n")
        chunk = backbone.video([one], VideoState(), fps=1.0)
        assert torch.equal(chunk.embeds, backbone.embed(ids))
        assert backbone.tokenizer.eos_token_id not in ids[0]
        assert (chunk.tokens.kind == int(TokenKind.TIMESTAMP)).any() == written


def test_a_base_model_without_a_template_reads_the_texts_and_the_question_as_paragraphs(tmp_path):
    backbone = load_backbone(str(write_text_model(tmp_path / "base", "llama", template=None)))
    assert backbone.prefix_text() == "You are a helpful assistant.\n\n"
    assert backbone.question_text("Who?") == "\nWho?\n\n"
    session = session_on(backbone)
    session.feed(["It rains.", "It stops."])
    assert session.ask(QUESTION, max_new_tokens=3).ids.shape == (3,)


def test_a_template_without_a_system_turn_has_the_system_prompt_before_the_texts(tmp_path):
    refuses = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    )
    folder = str(write_text_model(tmp_path / "model", "llama", template=refuses + CHAT))
    backbone = load_backbone(folder)
    assert backbone.prefix_text() == "<|im_start|>user\nYou are a helpful assistant.\n\n"
    assert backbone.question_text("Who?") == "\nWho?<|im_end|>\n<|im_start|>assistant\n"
    without = load_backbone({"checkpoint": folder, "system_prompt": None})
    assert without.prefix_text() == "<|im_start|>user\n"


@pytest.mark.parametrize(
    ("model_type", "said"),
    [
        *((name, rf"model type '{name}'.*rotary_emb") for name in ("gpt2", "bloom", "opt", "gptj", "mamba")),
        ("deepseek_v3", "latent attention"),
        ("gemma2", r"Gemma2Attention asks its attention for capped logits \(softcap\)"),
        ("gpt_oss", r"GptOssAttention asks its attention for attention sinks \(s_aux\)"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(model_type, said, tmp_path):
    folder = write_text_model(tmp_path / model_type, model_type)
    with pytest.raises(UnsupportedModelError, match=said):
        session_on(load_backbone(str(folder)))


def test_pictures_and_texts_are_not_taken_for_each_other():
    session = session_on(text_model("llama"))
    with pytest.raises(InputError, match="is a picture, and this model reads text: feed captions"):
        session.feed(np.zeros((3, 8, 8, 3), np.uint8))
    seeing = open_session("tiny_llava_onevision")
    with pytest.raises(InputError, match="is a text, and this model is shown pictures"):
        seeing.feed(["It rains."])
    assert not session.waiting
    assert not seeing.waiting


def test_texts_are_fed_as_pairs_alone_and_as_captions_and_times_do_not_go_back():
    session = session_on(text_model("llama"))
    session.feed([(0.5, "one"), (0.7, "two")])
    session.feed([(0.9, "three")])
    session.feed(Caption(0.95, text="four"))
    with pytest.raises(InputError, match=r"its time, 0\.95 s, is not after"):
        session.feed([(0.95, "five")])
    with pytest.raises(InputError, match="the text is"):
        session.feed([(2, " \n")])
    with pytest.raises(InputError, match=r"text 1 is 7; needed: a text, or \(time, text\)"):
        session.feed(["one", 7])
    with pytest.raises(InputError, match="half a character"):
        session.feed([(2, "\ud800")])
    session.feed(["five", "six"])
    assert [round(frame.time, 6) for frame in session.waiting or ()] == [1.95, 2.95]
    assert session.frames_seen == 4
    assert [frame.index for frame in session.waiting] == [4, 5]
    assert not list(session.notes)


def test_a_saved_stream_of_texts_goes_on(tmp_path):
    backbone, stream = text_model("llama"), texts(24)
    whole, first = (session_on(backbone, Hermes(budget=40)) for _ in range(2))
    first.feed(stream[:12])
    first.save(tmp_path / "stream")
    again = session_on(backbone, Hermes(budget=40))
    again.resume(tmp_path / "stream")
    whole.feed(stream)
    again.feed(stream[12:])
    for ours, theirs in zip(again.memory, whole.memory, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.video.table, theirs.video.table)
    assert again.ask(QUESTION).ids.tolist() == whole.ask(QUESTION).ids.tolist()


def test_two_thousand_texts_leave_the_memory_flat():
    session = session_on(text_model("llama"), Hermes(budget=64), chunk_frames=40)
    sizes = set()
    for start in range(0, 2000, 40):
        session.feed([(float(i), f"{i} is now") for i in range(start, start + 40)])
        if start:
            sizes.add((tuple(session.memory.lengths), session.memory.memory_bytes))
    assert len(sizes) == 1
    assert session.memory.top <= session.backbone.max_position
