"""Training of the embedded model: what it is trained on is what a session asks, and a killed run goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hermes.backbone import load_backbone
from hermes.config import build
from hermes.data.wanderer import KINDS
from hermes.data.wanderer.rendering import render
from hermes.data.wanderer.world import codes
from hermes.dialogue import multiple_choice
from hermes.errors import SettingError
from hermes.training import attention
from hermes.training.card import write_card
from hermes.training.decoder import DecoderModule
from hermes.training.model import ModelConfig, build_model, save_model
from hermes.training.optim import MuonAdamW
from hermes.training.packing import IGNORED, KIND_NAMES, Mixture, Packer
from hermes.training.run import Streams, train_model
from hermes.training.settings import Schedule, TrainConfig
from hermes.training.vision import Pictures, VisionConfig, VisionModule, feature_table, features, normalised
from hermes.training.words import ANSWER_PREFIX, Prompt, build_tokenizer, visual_words

SMALL = {"width": 96, "layers": 2, "feed_forward": 96, "vision_width": 32, "vision_layers": 1}


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    return Prompt(build_tokenizer())


@pytest.fixture(scope="module")
def model(prompt):
    torch.manual_seed(0)
    return build_model(ModelConfig(**SMALL), prompt.tokenizer).eval()


def settings(**changes) -> TrainConfig:
    stage = {"rows": 2, "slots": 1, "mixture": {"length": [4, 8], "choices": 0.3}}
    return build(
        TrainConfig,
        {
            "model": SMALL,
            "vision": {"steps": 2, "batch": 8, "variants": 1},
            "compile": False,
            "precision": "32-true",
            "hint_layer": 1,
            "test_streams": 0,
            "validate_every": 3,
            "validate_rows": 2,
            "save_every": 2,
            "stages": {"a": {"steps": 3, **stage}, "b": {"steps": 3, **stage}},
            "validation": {"length": [8, 8], "stories": 0.0},
            **changes,
        },
        "training",
    )


def test_every_word_is_one_token(prompt):
    tokens = {prompt.word(word) for word in visual_words()}
    assert len(tokens) == len(visual_words())


def test_prompts_are_those_of_a_session(prompt, model, tmp_path):
    save_model(model, prompt.tokenizer, tmp_path)
    backbone = load_backbone({"checkpoint": str(tmp_path)})
    assert backbone.encode(backbone.prefix_text())[0].tolist() == prompt.prefix()
    options = ("red", "blue", "black", "white")
    open_form = backbone.question_text("What colour was in the cave?")
    choice = backbone.question_text(multiple_choice("What colour is it?", options), ANSWER_PREFIX)
    assert backbone.encode(open_form)[0].tolist() == prompt.question("What colour was in the cave?")
    assert backbone.encode(choice)[0].tolist() == prompt.question("What colour is it?", options)
    assert [int(backbone.encode(letter)[0, -1]) for letter in "ABCD"] == [prompt.ids(x)[0] for x in "ABCD"]
    assert prompt.ids("A)")[0] == prompt.ids("A")[0]


def test_the_directory_is_plain_transformers(prompt, model, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    save_model(model, prompt.tokenizer, tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "LlavaOnevisionForConditionalGeneration"
    # Four tokens a frame and the newline of the native layout.
    text = f"{prompt.template_parts.prefix}{'<video>' * (2 * 4 + 1)}\nWhere are we now?\nASSISTANT:"
    ids = tokenizer(text, return_tensors="pt").input_ids
    out = loaded.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=torch.zeros(1, 2, 3, 32, 32),
        max_new_tokens=2,
        do_sample=False,
    )
    assert out.shape[1] > ids.shape[1]


def test_packed_attention_is_attention_under_the_full_mask():
    torch.manual_seed(0)
    context, slot, slots = 7, 4, 3
    n = context + slot * slots
    query, key, value = torch.randn(2, 4, n, 8), torch.randn(2, 2, n, 8), torch.randn(2, 2, n, 8)
    segment = torch.tensor([[1, 1, 2, 2, 3, 3, 3, 0, 4, 4, 4, 4]] * 2)
    seen = torch.randint(1, context + 1, (2, 5)).gather(1, segment)
    mask = attention.packed_mask(segment, seen, context, slot)
    bias = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    got, _ = attention.packed_attention(None, query, key, value, bias, 8**-0.5)

    full = torch.ones(2, n, n, dtype=torch.bool).tril()
    for row in range(2):
        for i in range(context, n):
            for j in range(n):
                own, at = segment[row, i - context], seen[row, i - context]
                sees = j < at if j < context else j <= i and segment[row, j - context] == own
                # Padding shares a number over all slots, but no slot sees another.
                full[row, i, j] = sees and (j < context or (j - context) // slot == (i - context) // slot)
    wanted = F.scaled_dot_product_attention(query, key, value, full.unsqueeze(1), enable_gqa=True)
    torch.testing.assert_close(got.transpose(1, 2), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("newline", [0.0, 1.0])
def test_a_packed_question_is_answered_as_if_alone(prompt, model, newline):
    table = feature_table(model, 1, seed=0)
    module = DecoderModule(model, table, lambda step: (0.0, 0.0), slot=64, compiled=False)
    packer = Packer(prompt, "test", 0, rows=1, slots=3)
    batch = packer.batch(Mixture(length=[8, 8], choices=0.5, gaps=0.0, newline=newline), 5)
    with torch.no_grad():
        logits, target = module.logits(module.hidden(batch)[0], batch.target)
    model.set_attn_implementation({"text_config": "sdpa"})
    learned = (batch.target[0] != IGNORED).nonzero().flatten().tolist()
    segment = F.pad(batch.segment[0], (batch.context, 0))
    for number in segment.unique().tolist()[1:]:
        own = (segment == number).nonzero().flatten()
        visible = int(batch.seen[0, own[0] - batch.context])
        ids, look = (torch.cat([x[0, :visible], x[0, own]]) for x in (batch.ids, batch.look))
        embeds = model.get_input_embeddings()(ids)
        embeds[look >= 0] = table[0, look[look >= 0]]
        embeds[look == -2] = model.model.image_newline
        with torch.no_grad():
            hidden = model.model.language_model(inputs_embeds=embeds[None]).last_hidden_state[0]
            alone = model.lm_head(hidden)[visible:]
        for i, at in enumerate(own.tolist()):
            if at in learned:
                row = learned.index(at)
                torch.testing.assert_close(alone[i], logits[row], atol=2e-4, rtol=1e-3)
                assert target[row] == batch.target[0, at]


def test_rows_are_full_and_seeded(prompt):
    packer = Packer(prompt, "train", 0, rows=16, slots=4)
    mixture = Mixture(length=[8, 16], choices=0.3)
    one, same, other = packer.batch(mixture, 3), packer.batch(mixture, 3), packer.batch(mixture, 4)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.ids[:, -64:], other.ids[:, -64:])
    assert (one.segment > 0).float().mean() > 0.7
    names = {KIND_NAMES[int(kind)] for kind in one.kind.unique() if kind >= 0}
    assert any(name.endswith("_choice") for name in names)
    assert {"shapes", "summary", "forward"} <= names


def test_gaps_only_widen_positions(prompt):
    packer = Packer(prompt, "train", 0, rows=8, slots=1)
    batch = packer.batch(Mixture(length=[16, 16], gaps=1.0, gap=500), 0)
    frames = batch.position[:, : batch.context][batch.look[:, : batch.context] >= 0].view(8, -1)
    steps = frames.diff(dim=1)
    assert steps.min() == 1
    assert steps.max() > 1
    assert frames.max() < 9 + 16 * 4 + 500


def test_vision_learns_and_its_table_matches_the_tower(prompt, model):
    looks = codes()[:, 0]
    table = feature_table(model, 1, seed=4)
    images = normalised(render(looks, np.random.default_rng((4, 3, 0)), noise=4.0))[:3]
    with torch.no_grad():
        torch.testing.assert_close(features(model, images).flatten(0, 1), table[0, :12], atol=1e-4, rtol=1e-3)
    torch.manual_seed(0)
    fresh = build_model(ModelConfig(**SMALL), prompt.tokenizer)
    config = VisionConfig(steps=80, batch=48)
    pictures = Pictures(config, "train", 0, fresh.get_input_embeddings().weight.detach().clone(), prompt)
    made = VisionModule(fresh, config).configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    losses = []
    for step in range(config.steps):
        pixels, wanted = pictures[step]
        loss = (features(fresh, pixels) - wanted[:, None]).square().sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_card_says_how_it_was_trained_and_how_well_it_answers(prompt, model, tmp_path):
    save_model(model, prompt.tokenizer, tmp_path)
    config = settings(test_streams=2, test_lengths=[12], seed=7)
    write_card(tmp_path, config, seconds=600, rows=tmp_path / "eval")
    card = (tmp_path / "README.md").read_text()
    assert "training.seed=7" in card
    assert "10 minutes" in card
    assert all(f": {kind} |" in card for kind in KINDS)
    found = json.loads((tmp_path / "accuracy.json").read_text())
    assert list(found) == ["12 s, open", "12 s, choice"]
    for name, summary in found.items():
        assert {kind.removesuffix(" (choice)") for kind in summary["by_kind"]} <= set(KINDS)
        assert all(kind.endswith(" (choice)") == ("choice" in name) for kind in summary["by_kind"])
        assert all(0 <= score["right"] <= score["n"] <= 2 for score in summary["by_kind"].values())


def test_muon_moves_matrices_by_its_rate_alone():
    torch.manual_seed(0)
    weight, vector = torch.randn(8, 16, requires_grad=True), torch.randn(8, requires_grad=True)
    before, start = weight.detach().clone(), vector.detach().clone()
    optimizer = MuonAdamW([weight], [vector], muon_lr=0.1, adam_lr=0.01)
    (1e-3 * (weight.square().sum() + vector.square().sum())).backward()
    optimizer.step()
    moved = torch.linalg.svdvals((weight.detach() - before) / 0.1)
    assert bool(((moved > 0.5) & (moved < 1.5)).all())
    torch.testing.assert_close(vector.detach(), start - 0.01 * start.sign(), atol=1e-5, rtol=1e-4)


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = train_model(settings(), tmp_path / "whole")
    batch = Streams.batch

    def killed(self, step):
        if step == 5:
            raise RuntimeError("killed")
        return batch(self, step)

    monkeypatch.setattr(Streams, "batch", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train_model(settings(), tmp_path / "broken")
    monkeypatch.setattr(Streams, "batch", batch)
    asked = []
    monkeypatch.setattr(Streams, "batch", lambda self, step: asked.append(step) or batch(self, step))
    broken = train_model(settings(), tmp_path / "broken")
    assert asked == [4, 5]
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    other = train_model(settings(seed=1), tmp_path / "other")
    assert (whole / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    logs = (tmp_path / "broken" / "logs" / "decoder").glob("*/metrics.csv")
    assert any("validation/now_place" in path.read_text() for path in logs)


def test_the_schedule_runs_through_its_stages():
    schedule = Schedule(settings(warmup=2))
    assert [schedule.stage(step)[0] for step in range(7)] == ["a", "a", "a", "b", "b", "b", "b"]
    assert schedule(0)[0] < schedule(1)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": {}}, "at least one stage"),
        ({"validation": {"length": [9, 15]}}, "a multiple of 8"),
        ({"validation": {"kinds": {"ordr": 1}}}, "Did you mean 'order'"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(SettingError, match=message):
        settings(**change)
