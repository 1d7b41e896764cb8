"""CausalMem against loops in float64: the basis, what is held, and the background of what is not."""

from __future__ import annotations

import pytest
import torch

from hermes.policies.causalmem import CausalMem
from hermes.session.session import StreamSession
from hermes.tokens import VideoState, split_frames
from tests.support.asking import gone_on, stream_and_ask
from tests.support.references import FAMILIES, tiny
from tests.support.rivals import scenes
from tests.support.tolerances import close

pytestmark = pytest.mark.model


class Slow:
    """A list of basis vectors with their usage, and a list of tokens: (frame, id, vector, mass)."""

    def __init__(self, budget: int, basis: int, first: int, learn: int, decay: float) -> None:
        self.budget, self.basis, self.first, self.learn, self.decay = budget, basis, first, learn, decay
        self.vectors: list[torch.Tensor] = []
        self.usage: list[float] = []
        self.tokens: list[tuple[int, int, torch.Tensor, int]] = []

    def rest(self, x: torch.Tensor) -> torch.Tensor:
        for v in self.vectors:
            x = x - (x @ v) * v
        return x

    def frame(self, number: int, ids: list[int], tokens: list[torch.Tensor]) -> None:
        xs = [token.double() for token in tokens]
        if not self.vectors:
            _, directions = torch.linalg.eigh(sum(torch.outer(x, x) for x in xs))
            self.vectors = [directions[:, -1 - i] for i in range(min(self.first, self.basis))]
            self.usage = [sum(abs(float(x @ v)) for x in xs) / len(xs) for v in self.vectors]
        else:
            for i, v in enumerate(self.vectors):
                mean = sum(abs(float(x @ v)) for x in xs) / len(xs)
                self.usage[i] = self.decay * self.usage[i] + (1 - self.decay) * mean
            rests = sorted((self.rest(x) for x in xs), key=lambda r: -float(r.norm()))[: self.learn]
            scale = max(float(x.norm()) for x in xs)
            for r in rests:
                r = self.rest(r)
                if float(r.norm()) > 1e-4 * scale:
                    v = r / r.norm()
                    self.vectors.append(v)
                    self.usage.append(sum(abs(float(x @ v)) for x in xs) / len(xs))
            used = sorted(range(len(self.usage)), key=lambda i: -self.usage[i])[: self.basis]
            self.vectors = [self.vectors[i] for i in sorted(used)]
            self.usage = [self.usage[i] for i in sorted(used)]
        self.tokens += [(number, name, x, 1) for name, x in zip(ids, xs, strict=True)]
        if len(self.tokens) > self.budget:
            self.prune()

    def prune(self) -> None:
        order = sorted(range(len(self.tokens)), key=lambda i: -float(self.rest(self.tokens[i][2]).norm()))
        for room in range(self.budget, -1, -1):
            kept = set(order[:room])
            losers = {self.tokens[i][0] for i in range(len(self.tokens)) if i not in kept}
            if room + len(losers) <= self.budget or room == 0:
                break
        out = [self.tokens[i] for i in kept]
        for number in losers:
            gone = [self.tokens[i] for i in range(len(self.tokens)) if i not in kept]
            mine = [token for token in gone if token[0] == number]
            mass = sum(m for *_, m in mine)
            mean = sum(x * m for _, _, x, m in mine) / mass
            far = [float((token[2] - mean).norm()) for token in mine]
            # Two are equally near to their mean: the first.
            name = next(token[1] for token, d in zip(mine, far, strict=True) if d <= min(far) * 1.0001)
            out.append((number, name, mean, mass))
        out.sort(key=lambda token: token[1])
        if len(out) > self.budget:
            best = sorted(range(len(out)), key=lambda i: -float(self.rest(out[i][2]).norm()))[: self.budget]
            out = [out[i] for i in sorted(best)]
        self.tokens = out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [40, 14, 9])
def test_what_is_held_is_what_the_basis_explains_worst(family, budget):
    backbone, state = tiny(family), VideoState()
    backbone.prefix(state)
    settings = {"basis": 10, "first": 3, "learn": 2, "decay": 0.8}
    frames, slow = scenes([7, 5, 12]), Slow(budget, **settings)
    policy = CausalMem(budget=budget, **settings)
    session = StreamSession(backbone, policy, chunk_frames=4)
    for at in range(0, 24, 4):
        chunk = backbone.video(frames[at : at + 4], state, fps=backbone.fps)
        for number, piece in enumerate(split_frames(chunk)):
            visual = (piece.tokens.row >= 0).nonzero().flatten()
            slow.frame(at + number, piece.tokens.id[visual].tolist(), list(piece.embeds[0, visual]))
        session.feed(frames[at : at + 4])
        held = [
            (int(i), x, int(m))
            for p in session.policy.pieces
            for i, x, m in zip(p.tokens.id, p.embeds[0], p.tokens.weight, strict=True)
        ]
        assert len(held) <= budget
        assert [name for name, _, _ in held] == [name for _, name, _, _ in slow.tokens]
        assert [mass for _, _, mass in held] == [mass for *_, mass in slow.tokens]
        for (_, ours, _), (_, _, expected, _) in zip(held, slow.tokens, strict=True):
            close("one_shot", ours, expected.float())
        u = session.policy.vectors
        assert u.shape[1] == len(slow.vectors) <= 10
        close("one_shot", u.T @ u, torch.eye(u.shape[1]))
        close("one_shot", u @ u.T, sum(torch.outer(v, v) for v in slow.vectors).float())
        close("one_shot", session.policy.usage, torch.tensor(slow.usage))
    assert session.memory.lengths[0] == session.memory.prefix


def test_the_answer_reads_what_is_held_at_new_positions():
    asked = stream_and_ask(CausalMem(budget=30), "llava_onevision")
    prefix = asked.session.memory.prefix
    ids = [i for piece in asked.session.policy.pieces for i in piece.tokens.id.tolist()]
    assert len(ids) == 30
    for layer in asked.fork:
        assert layer.video.id[0, 0].tolist() == ids
        assert layer.positions.flatten().tolist() == list(range(prefix + 30))
    assert asked.session.stats().archived_bytes == 0


def test_a_saved_stream_goes_on(tmp_path):
    gone_on(lambda: CausalMem(budget=20), scenes([6, 3, 9, 6]), tmp_path)
