"""The compaction kernel against its reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hermes.kernels import MixPlan, Rotation, compact_layer
from tests.support.poison import devices, dtypes, poisoned, strided
from tests.support.tolerances import close

pytestmark = pytest.mark.unit
# batch, KV heads, tokens, head width, kept, rows of indices, position axes
SHAPES = [
    (1, 2, 1, 64, 1, 1, 1),
    (2, 3, 50, 80, 20, 3, 1),
    (1, 2, 133, 128, 100, 1, 3),
    (2, 2, 40, 64, 0, 2, 3),
    (1, 4, 65, 64, 65, 1, 1),
]


def _rotary(axes: int, half: int, device: str) -> tuple[Tensor, Tensor]:
    """Frequencies, and channels interleaved over the axes."""
    frequencies = 0.8 ** torch.arange(half, device=device).float()
    return frequencies, torch.arange(half, device=device) % axes


def _case(
    shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor, Rotation, MixPlan | None]:
    batch, heads, tokens, width, kept, rows, axes = shape
    generator = torch.Generator().manual_seed(0)
    keys, values = (
        torch.randn(batch, heads, tokens, width, generator=generator).to(device, dtype) for _ in range(2)
    )
    order = torch.rand(batch, rows, tokens, generator=generator).argsort(-1).to(device)
    keep, members = order[..., :kept].sort(-1).values, order[..., kept:].sort(-1).values
    rotary = _rotary(axes, width // 2, device)

    def turn(count: int) -> Rotation:
        shift = torch.randint(-3000, 3000, (axes, batch, rows, count), generator=generator)
        return Rotation(shift.float().to(device), *rotary)

    mix = None
    if members.shape[-1]:
        weights = torch.rand(members.shape, generator=generator).to(device).softmax(-1)
        mix = MixPlan(members, weights, None, 1, turn(members.shape[-1]))
    return keys, values, keep, turn(kept), mix


def _check(keys: Tensor, values: Tensor, *args: object, source: Tensor | None = None) -> None:
    from hermes.kernels import compact_triton

    with poisoned():
        ours = compact_triton.compact_layer(
            strided(keys), strided(values), *args, source=None if source is None else strided(source)
        )
    for made, wanted in zip(ours, compact_layer(keys, values, *args, source=source), strict=True):
        close("kernel_compact", made, wanted)


@devices
@dtypes
@pytest.mark.parametrize("parts", ["keep", "turn", "mix"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_compact(shape: tuple[int, ...], parts: str, dtype: torch.dtype, device: str) -> None:
    keys, values, keep, rotation, mix = _case(shape, dtype, device)
    _check(keys, values, keep, rotation if parts != "keep" else None, mix if parts == "mix" else None)


@devices
@dtypes
def test_kernel_compact_keeps_bits(dtype: torch.dtype, device: str) -> None:
    """Where positions stay, keys and values are copies."""
    from hermes.kernels import compact_triton

    keys, values, keep, _, _ = _case(SHAPES[1], dtype, device)
    ours = compact_triton.compact_layer(keys, values, keep, None, None)
    assert all(
        torch.equal(a, b) for a, b in zip(ours, compact_layer(keys, values, keep, None, None), strict=True)
    )


@devices
@pytest.mark.parametrize("targets", [False, True], ids=["appended", "replacing"])
def test_kernel_compact_groups(targets: bool, device: str) -> None:
    keys, values, keep, rotation, mix = _case(SHAPES[1], torch.float32, device)
    assert mix is not None
    groups = torch.arange(mix.members.shape[-1], device=device).expand_as(mix.members) % 4
    slots = torch.tensor([3, 0, 19, 7], device=device).expand(2, 3, 4) if targets else None
    _check(keys, values, keep, rotation, replace(mix, groups=groups, size=4, targets=slots))


@devices
def test_kernel_compact_from_written_keys(device: str) -> None:
    keys, values, keep, rotation, mix = _case(SHAPES[2], torch.bfloat16, device)
    _check(keys, values, keep, rotation, mix, source=2 * keys)


@devices
def test_kernel_compact_turns_all(device: str) -> None:
    keys, values, _, rotation, _ = _case(SHAPES[4], torch.float32, device)
    _check(keys, values, None, rotation, None)


@devices
def test_kernel_compact_long(device: str) -> None:
    """More members than one slice sums, and a full prefix."""
    keys, values, keep, rotation, mix = _case((1, 1, 8193, 64, 4001, 1, 1), torch.bfloat16, device)
    _check(keys, values, keep, rotation, mix)


@devices
def test_kernel_compact_is_deterministic(device: str) -> None:
    from hermes.kernels import compact_triton

    case = _case((1, 2, 700, 64, 60, 1, 1), torch.float32, device)
    first, second = (compact_triton.compact_layer(*case) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
