"""DTD against loops: which tokens the decoder reads, by features, by pixels and by share."""

from __future__ import annotations

import pytest
import torch

from hermes.errors import InputError
from hermes.policies.dtd import Dtd
from hermes.policies.full import Full
from hermes.session.session import StreamSession
from hermes.testing import Trial
from hermes.tokens import VideoState
from tests.support.references import FAMILIES, tiny
from tests.support.rivals import still_frames

pytestmark = pytest.mark.model


def read_by(policy: Dtd, family: str) -> list[int]:
    session = StreamSession(tiny(family), policy, chunk_frames=4)
    session.feed(still_frames(12))
    ids: list[int] = session.memory[6].video.id[0, 0].tolist()
    return ids


def frames_of(family: str):
    """Every frame's tokens: number, ids, embeddings, and rows and columns; and the ids of text."""
    backbone, state = tiny(family), VideoState()
    backbone.prefix(state)
    text, out = [], []
    for start in range(0, 12, 4):
        chunk = backbone.video(still_frames(12)[start : start + 4], state, fps=backbone.fps)
        for frame in chunk.tokens.frame.unique().tolist():
            slots = [i for i in range(len(chunk)) if int(chunk.tokens.frame[i]) == frame]
            text += [int(chunk.tokens.id[i]) for i in slots if int(chunk.tokens.row[i]) < 0]
            slots = [i for i in slots if int(chunk.tokens.row[i]) >= 0]
            place = [(int(chunk.tokens.row[i]), int(chunk.tokens.col[i])) for i in slots]
            ids = [int(chunk.tokens.id[i]) for i in slots]
            out.append((frame, ids, [chunk.embeds[0, i] for i in slots], place))
    return text, out


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(a.double() @ b.double() / (a.double().norm() * b.double().norm()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("threshold", [None, 0.9])
def test_features_that_have_not_changed_are_dropped(family, threshold):
    ids = read_by(Dtd(threshold=threshold), family)
    expected, frames = frames_of(family)
    dropped, before = 0, None
    for _, names, tokens, _ in frames:
        for at, name in enumerate(names):
            if before is None or cosine(tokens[at], before[at]) <= (threshold or 0.5):
                expected.append(name)
            else:
                dropped += 1
        before = tokens
    assert dropped > 0
    assert ids == sorted(expected)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_a_share_of_every_frame_stays(family):
    ids = read_by(Dtd(keep=0.4), family)
    expected, frames = frames_of(family)
    before = None
    for _, names, tokens, _ in frames:
        if before is None:
            expected += names
        else:
            order = sorted(range(len(names)), key=lambda i: cosine(tokens[i], before[i]))
            expected += [names[i] for i in order[: round(0.4 * len(names))]]
        before = tokens
    assert ids == sorted(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_that_have_not_changed_are_dropped(family):
    ids = read_by(Dtd(mode="pixel", threshold=60), family)
    expected, frames = frames_of(family)
    images = {frame.index: frame.image for frame in still_frames(12)}
    dropped, before = 0, None
    for number, names, _, places in frames:
        rows, cols = max(r for r, _ in places) + 1, max(c for _, c in places) + 1
        for name, (row, col) in zip(names, places, strict=True):
            box = images[number][
                row * 84 // rows : (row + 1) * 84 // rows, col * 84 // cols : (col + 1) * 84 // cols
            ]
            difference = 255.0
            if before is not None:
                other = images[before][
                    row * 84 // rows : (row + 1) * 84 // rows, col * 84 // cols : (col + 1) * 84 // cols
                ]
                difference = float(abs(box.astype(float) - other.astype(float)).mean())
            if difference >= 60:
                expected.append(name)
            else:
                dropped += 1
        before = number
    assert dropped > 0
    assert ids == sorted(expected)


@pytest.mark.parametrize("mode", ["feature", "pixel"])
def test_what_stays_is_at_its_own_positions_and_a_saved_stream_goes_on(mode, tmp_path):
    def stream(policy):
        return StreamSession(tiny("qwen2_5_vl"), policy, chunk_frames=4)

    full, whole, again = stream(Full()), stream(Dtd(mode=mode)), stream(Dtd(mode=mode))
    frames = still_frames(12)
    full.feed(frames)
    whole.feed(frames[:8])
    whole.save(tmp_path)
    again.resume(tmp_path)
    for session in (whole, again):
        session.feed(frames[8:])
    assert torch.equal(whole.memory[4].keys, again.memory[4].keys)
    places = dict(
        zip(
            full.memory[0].origin.id[0, 0].tolist(), full.memory[0].positions[:, 0, 0].T.tolist(), strict=True
        )
    )
    for name, place in zip(
        whole.memory[0].origin.id[0, 0].tolist(), whole.memory[0].positions[:, 0, 0].T.tolist(), strict=True
    ):
        assert places[name] == place
    assert whole.memory.next_position == full.memory.next_position
    assert whole.memory.lengths[0] < full.memory.lengths[0]
    assert whole.stats().memory_bytes > whole.memory.memory_bytes


def test_pixels_need_frames():
    trial = Trial("full")
    session = StreamSession(trial.backbone, Dtd(mode="pixel"))
    with pytest.raises(InputError, match="feed frames"):
        session.feed_chunk(trial.chunks(1, 0)[0])
