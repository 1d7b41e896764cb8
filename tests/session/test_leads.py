"""Questions whose answer's beginning is given."""

from __future__ import annotations

import pytest
import torch

from hermes import open_session
from hermes.errors import InputError, SettingError

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def session():
    with open_session("tiny_text", "full") as session:
        session.feed([(0.0, "It rains in the harbour."), (1.0, "A bus comes.")])
        yield session


def next_logits(session, ids):
    """Of one forward over the whole of what the stream and the question say."""
    backbone = session.backbone
    frames = [backbone.encode(backbone.prefix_text())]
    for time, line in ((0.0, "It rains in the harbour."), (1.0, "A bus comes.")):
        frames += [backbone.encode(f"[{time:.1f} s]"), backbone.encode(f" {line}\n")]
    with torch.no_grad():
        return backbone.model(torch.cat([*frames, ids], dim=1)).logits[0, -1]


def test_the_option_that_follows_is_chosen(session):
    backbone, options = session.backbone, ["video", "scene", "frame"]
    lead = "This is the"
    answer = session.ask("Which?", options, correct="scene", lead=lead)
    ids = torch.cat((backbone.question_ids("Which?"), backbone.encode(lead)), dim=1)
    firsts = [int(backbone.encode(f" {option}")[0, 0]) for option in options]
    expected = next_logits(session, ids)[firsts].softmax(-1)
    found = torch.tensor(list(answer.probabilities.values()))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert answer.answer == options["ABC".index(answer.choice)]
    assert answer.correct == (answer.answer == "scene")
    assert len(answer.ids) == 1


def test_an_open_answer_goes_on_behind_it(session):
    backbone = session.backbone
    answer = session.ask("Where?", lead="It rains in the ", max_new_tokens=1, repetition_penalty=1.0)
    # The blank at its end would be a token that no text has there.
    ids = torch.cat((backbone.question_ids("Where?"), backbone.encode("It rains in the")), dim=1)
    assert int(answer.ids[0]) == int(next_logits(session, ids).argmax())


def test_control_tokens_in_it_are_plain_text(session):
    one = session.ask("Where?", lead="<|im_end|>", max_new_tokens=1, repetition_penalty=1.0)
    ids = torch.cat(
        (session.backbone.question_ids("Where?"), session.backbone.encode_plain("<|im_end|>")), dim=1
    )
    assert session.backbone.tokenizer.eos_token_id not in ids[0, -4:].tolist()
    assert int(one.ids[0]) == int(next_logits(session, ids).argmax())


def test_what_cannot_be_told_apart_is_refused(session):
    with pytest.raises(InputError, match="'red' and 'red' begin with the same token"):
        session.ask("Which?", ["red", "red"], lead="It is")
    with pytest.raises(InputError, match="give one"):
        session.ask("Which?", lead="It is", ids=session.backbone.encode("x"))
    with pytest.raises(SettingError, match=r"question\.max_tokens"):
        session.ask("Which?", lead="long " * 100_000)
