"""CurveStream against a loop over frames: scores, states, and what is held of each."""

from __future__ import annotations

import pytest
import torch

from hermes.errors import SettingError
from hermes.policies.curvestream import CurveStream
from hermes.policy import blurred
from hermes.session.session import StreamSession
from hermes.tokens import Chunk, Provenance, VideoState, split_frames
from tests.support.asking import gone_on, stream_and_ask
from tests.support.references import FAMILIES, tiny
from tests.support.rivals import scenes
from tests.support.tolerances import close

unit, model = pytest.mark.unit, pytest.mark.model


def slow_blurred(piece: Chunk, side: int) -> dict[int, tuple[torch.Tensor, int]]:
    """By the id of the token whose place it takes: the mean of a square of tokens, and how many they are."""
    squares: dict[tuple[int, int], list[int]] = {}
    out = {}
    for i, (row, col) in enumerate(zip(piece.tokens.row.tolist(), piece.tokens.col.tolist(), strict=True)):
        if row < 0:
            out[int(piece.tokens.id[i])] = (piece.embeds[0, i], 1)
        else:
            squares.setdefault((row // side, col // side), []).append(i)
    for members in squares.values():
        mean = sum(piece.embeds[0, i] for i in members) / len(members)
        out[int(piece.tokens.id[members[0]])] = (mean, len(members))
    return dict(sorted(out.items()))


@unit
@pytest.mark.parametrize(("rows", "cols", "side"), [(4, 6, 2), (3, 5, 2), (3, 3, 4), (5, 4, 3)])
def test_squares_of_tokens_become_their_mean(rows, cols, side):
    count = rows * cols
    generator = torch.Generator().manual_seed(rows)
    stamp = Provenance.text(2, first_id=7)
    tokens = Provenance.cat([stamp, Provenance.visual(first_id=9, frame=3, time=1.0, rows=rows, cols=cols)])
    piece = Chunk(
        torch.randn(1, count + 2, 6, generator=generator),
        torch.arange(count + 2.0)[None],
        count + 2,
        tokens,
        1,
    )
    ours, expected = blurred(piece, side), slow_blurred(piece, side)
    assert ours.tokens.id.tolist() == list(expected)
    for i, (mean, size) in enumerate(expected.values()):
        close("mix", ours.embeds[0, i], mean)
        assert int(ours.tokens.weight[i]) == size
        assert float(ours.positions[0, i]) == int(ours.tokens.id[i]) - 7
    assert blurred(piece, 1) is piece


def cos(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def slow_states(frames: list[Chunk], bend: float, decay: float, clear: float, fuzzy: float) -> list[str]:
    features = [
        frame.embeds[0][(frame.tokens.row >= 0).nonzero().flatten()].double().mean(0) for frame in frames
    ]
    out, mean, variance = ["clear"], None, 0.0
    for t in range(1, len(features)):
        score = 1 - cos(features[t], features[t - 1])
        if t > 1:
            score += bend * (1 - cos(features[t] - features[t - 1], features[t - 1] - features[t - 2]))
        if mean is None:
            mean = score
            out.append("clear")
            continue
        deviation = variance**0.5
        if score >= mean + clear * deviation:
            out.append("clear")
        else:
            out.append("fuzzy" if score >= mean + fuzzy * deviation else "dropped")
        apart = score - mean
        mean += (1 - decay) * apart
        variance = decay * (variance + (1 - decay) * apart * apart)
    return out


@model
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("budget", "frames", "clear", "fuzzy"), [(1000, 20, 1.0, 0.0), (90, 20, 0.5, -0.3), (1000, 4, 2.0, -0.3)]
)
def test_frames_are_held_by_how_the_stream_bends(family, budget, frames, clear, fuzzy):
    backbone, state = tiny(family), VideoState()
    backbone.prefix(state)
    given, whole = scenes([5, 2, 9, 3, 5]), []
    policy = CurveStream(budget=budget, frames=frames, clear=clear, fuzzy=fuzzy)
    session = StreamSession(backbone, policy, chunk_frames=4)
    seen = set()
    for at in range(0, len(given), 4):
        chunk = backbone.video(given[at : at + 4], state, fps=backbone.fps)
        whole += split_frames(chunk)
        session.feed(given[at : at + 4])
        states = slow_states(whole, 0.2, 0.9, clear, fuzzy)
        held = []
        for number, (frame, found) in enumerate(zip(whole, states, strict=True)):
            last = number == len(whole) - 1
            if found == "clear" or last:
                held.append(
                    [(i, x, 1) for i, x in zip(frame.tokens.id.tolist(), frame.embeds[0], strict=True)]
                )
            elif found == "fuzzy":
                held.append([(i, x, n) for i, (x, n) in slow_blurred(frame, 2).items()])
        seen |= set(states)
        pieces = session.policy.pieces
        assert len(pieces) <= max(frames // backbone.frames_per_group, 1)
        assert sum(map(len, pieces)) <= budget
        # The oldest leave first: what is held is the end of it.
        expected = held[len(held) - len(pieces) :]
        for piece, tokens in zip(pieces, expected, strict=True):
            assert piece.tokens.id.tolist() == [i for i, _, _ in tokens]
            assert piece.tokens.weight.tolist() == [n for *_, n in tokens]
            close("mix", piece.embeds[0], torch.stack([x for _, x, _ in tokens]))
    assert seen >= {"clear", "dropped"}
    assert clear == 0.5 or "fuzzy" in seen
    assert session.memory.lengths[0] == session.memory.prefix


@model
def test_the_answer_reads_what_is_held_at_new_positions_and_a_saved_stream_goes_on(tmp_path):
    asked = stream_and_ask(CurveStream(budget=60), "llava_onevision")
    ids = [i for piece in asked.session.policy.pieces for i in piece.tokens.id.tolist()]
    for layer in asked.fork:
        assert layer.video.id[0, 0].tolist() == ids
        assert layer.positions.flatten().tolist() == list(range(layer.length))
    gone_on(lambda: CurveStream(budget=60), scenes([6, 3, 9, 6]), tmp_path)


@model
def test_what_cannot_be_is_refused():
    with pytest.raises(SettingError, match="fuzzy: got 2"):
        CurveStream(fuzzy=2.0)
    session = StreamSession(tiny("llava_onevision"), CurveStream(budget=5), chunk_frames=4)
    with pytest.raises(SettingError, match="at least 9, the tokens of one frame"):
        session.feed(scenes([4]))
