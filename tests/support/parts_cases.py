"""Memories, contexts and plain formulas for the tests of parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from hermes.attention import Guidance
from hermes.memory import KVMemory
from hermes.parts import LayerContext
from hermes.policy import StreamContext
from hermes.tokens import Provenance, TokenKind
from tests.support.references import toy_rotary

unit, model = pytest.mark.unit, pytest.mark.model


def memory_of(*layers: Sequence[dict[str, object]], prefix: int = 2) -> KVMemory:
    """A memory whose layers hold tokens with the provenance given, one mapping of columns a layer."""
    memory = KVMemory(len(layers), toy_rotary(1))
    for index, columns in enumerate(layers):
        length = max(len(value) for value in columns.values() if not isinstance(value, int))
        memory.update(torch.randn(1, 2, prefix + length, 8), torch.randn(1, 2, prefix + length, 8), index)
        head = Provenance.text(prefix, first_id=-1000, kind=TokenKind.PREFIX)
        body = Provenance.of(length, **{name: torch.as_tensor(value) for name, value in columns.items()})
        layer = memory[index]
        layer.positions = torch.arange(prefix + length).float().view(1, 1, 1, -1)
        layer.tokens = Provenance(Provenance.cat([head, body]).table[:, None, None])
        layer.clock = torch.full((1, 1), float(prefix + length))
        layer.prefix = prefix
        layer.has_timestamps = bool((body.kind == int(TokenKind.TIMESTAMP)).any())
        layer.has_protected = bool(body.protected.any())
    memory.prefix = prefix
    memory.sync_clocks()
    return memory


def context_of(layer, depth: float = 0.0, seed: int = 0, **attention: torch.Tensor) -> LayerContext:
    observed = {Guidance(text): mass for text, mass in attention.items()}
    generator = torch.Generator().manual_seed(seed)
    return LayerContext(layer, depth, False, lambda kind: f"ask_{kind}", generator, observed)


def scaled(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low + 1e-6) for value in values]


def stretched(values: list[float], length: int) -> list[float]:
    """Linear interpolation between the middles of equal cells."""
    out = []
    for i in range(length):
        at = min(max((i + 0.5) * len(values) / length - 0.5, 0.0), len(values) - 1.0)
        low = math.floor(at)
        high = min(low + 1, len(values) - 1)
        out.append(values[low] + (at - low) * (values[high] - values[low]))
    return out


def smoothed(scores, weights, ids, align: str, recursive: bool) -> list[list[float]]:
    out = [list(score) for score in scores]
    for layer in range(len(scores) - 2, -1, -1):
        above = out[layer + 1] if recursive else scores[layer + 1]
        if align == "index":
            matched = stretched(above, len(scores[layer]))
        else:
            known = dict(zip(ids[layer + 1], above, strict=True))
            matched = [known.get(token, own) for token, own in zip(ids[layer], scores[layer], strict=True)]
        lam = weights[layer]
        out[layer] = [(1 - lam) * own + lam * up for own, up in zip(scores[layer], matched, strict=True)]
    return out


def stream_context(layers: int = 10, seed: int = 0) -> StreamContext:
    return StreamContext(layers, 2, 10**6, torch.Generator().manual_seed(seed), lambda h, w: 4)
