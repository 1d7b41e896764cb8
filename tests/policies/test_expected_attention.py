"""Expected attention against its formula, by loops over queries, positions and keys."""

from __future__ import annotations

import pytest
import torch

from hermes.parts import TopK
from hermes.policies.expected_attention import ExpectedAttention, ExpectedAttentionPolicy
from hermes.policy import Tier
from hermes.session.session import StreamSession
from hermes.testing import Trial
from hermes.testing.trial import copy_state
from tests.support.contract import keep_the_contract
from tests.support.references import rope, rope_settings, tiny

pytestmark = pytest.mark.model


def rotation(width: int, place: torch.Tensor, frequencies: list[float], axes: list[int]) -> torch.Tensor:
    """The matrix ``[D, D]`` that turns a vector to a position ``[A, 1]``."""
    rows = [rope(torch.eye(width)[c][None], place, frequencies, axes)[0] for c in range(width)]
    return torch.stack(rows, dim=1)


def slow_scores(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, clock: float, settings, scorer
) -> list[float]:
    """Scores of one KV head: raw queries ``[G, n, D]``, keys ``[V, D]`` and values of the video tokens."""
    frequencies, axes = settings
    width, found = queries.shape[-1], [0.0] * len(keys)
    turn = torch.zeros(width, width, dtype=torch.float64)
    for step in range(scorer.future):
        place = torch.full((max(axes) + 1, 1), clock + step)
        turn += rotation(width, place, frequencies, axes) / scorer.future
    for own in queries.double():
        mean = sum(own) / len(own)
        cov = sum(torch.outer(q - mean, q - mean) for q in own) / len(own)
        mean, cov = turn @ mean, turn @ cov @ turn.T
        logits = []
        for key in keys.double():
            logit = float(mean @ key) / width**0.5
            if scorer.covariance:
                logit += float(key @ cov @ key) / width / 2
            logits.append(logit)
        shares = torch.tensor(logits, dtype=torch.float64).softmax(0)
        found = [before + float(share) / len(queries) for before, share in zip(found, shares, strict=True)]
    if not scorer.values:
        return found
    norms = values.double().norm(dim=-1).tolist()
    return [(share + scorer.epsilon) * norm for share, norm in zip(found, norms, strict=True)]


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
@pytest.mark.parametrize(
    "scorer",
    [
        ExpectedAttention(future=6),
        ExpectedAttention(future=3, covariance=False, epsilon=0.05),
        ExpectedAttention(future=1, values=False),
    ],
    ids=["whole", "mean", "attention"],
)
def test_what_stays_is_what_gaussian_queries_would_attend_to(family, scorer):
    backbone, raw, before = tiny(family), {}, []
    policy = ExpectedAttentionPolicy(budget=60, tiers={"all": Tier(1.0, scorer)})
    session = StreamSession(backbone, policy, chunk_frames=4)
    inner = session.policy.compress

    def compress(memory, observe):
        before.append(copy_state(memory))
        return inner(memory, observe)

    vars(session.policy)["compress"] = compress
    handles = [
        block.self_attn.q_proj.register_forward_hook(
            lambda module, args, out, index=index: raw.__setitem__(index, out[0].view(out.shape[1], 4, -1))
        )
        for index, block in enumerate(backbone.decoder.layers)
    ]
    frames = Trial("full", backbone).frames(16)
    session.feed(frames)
    for handle in handles:
        handle.remove()
    settings, prefix = rope_settings(backbone), session.memory.prefix
    step, chunk = before[-1], len(raw[0])
    for layer, state in zip(session.memory, step, strict=True):
        length = state["keys"].shape[2]
        assert length - prefix > 60
        for head in range(2):
            # Behind the chunk's largest position, where a text would go on.
            clock = float(state["positions"][:, 0, head % state["positions"].shape[2], -chunk:].max()) + 1
            scores = slow_scores(
                raw[layer.index][:, 2 * head : 2 * head + 2].transpose(0, 1),
                state["keys"][0, head, prefix:],
                state["values"][0, head, prefix:],
                clock,
                settings,
                scorer,
            )
            order = sorted(range(length - prefix), key=lambda i: -scores[i])[:60]
            ids = [int(state["tokens"][0, 0, head % state["tokens"].shape[2], prefix + i]) for i in order]
            assert layer.video.id[0, head].tolist() == sorted(ids)


def test_one_choice_for_all_heads_keeps_the_contract():
    keep_the_contract(ExpectedAttentionPolicy(selector=TopK(rank="all")), tiny("qwen3_vl"))
