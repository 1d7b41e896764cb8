"""The rotation kernel against its reference."""

from __future__ import annotations

import pytest
import torch

from hermes.kernels import Rotation, rotate
from tests.support.poison import devices, dtypes, poisoned, strided
from tests.support.tolerances import close

pytestmark = pytest.mark.unit
# batch, heads, tokens, head width, rows of angles (1: all heads alike), steps of angles (1: all tokens)
SHAPES = [(1, 2, 1, 64, 1, 1), (2, 3, 77, 80, 3, 77), (1, 4, 33, 128, 1, 33), (2, 2, 5, 16, 2, 1)]


def _case(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[torch.Tensor, ...]:
    batch, heads, tokens, width, rows, steps = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, heads, tokens, width, generator=generator).to(device, dtype)
    angle = 50 * torch.randn(batch, rows, steps, width // 2, generator=generator).to(device)
    return x, angle.cos(), angle.sin()


@devices
@dtypes
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_rotate(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    from hermes.kernels import rotate_triton

    x, cos, sin = _case(shape, dtype, device)
    with poisoned():
        ours = rotate_triton.rotate(strided(x), cos, sin)
    close("kernel_rotate", ours, rotate(x, cos, sin))


@devices
def test_kernel_rotate_query_groups(device: str) -> None:
    """Queries in their groups: five axes, angles per KV head."""
    from hermes.kernels import rotate_triton

    x, cos, sin = _case((2, 6, 9, 64, 2, 9), torch.float32, device)
    x, cos, sin = x.unflatten(1, (2, 3)), cos.unsqueeze(2), sin.unsqueeze(2)
    close("kernel_rotate", rotate_triton.rotate(x, cos, sin), rotate(x, cos, sin))


def test_kernel_turn_maps_axes_to_channels() -> None:
    shift = torch.tensor([[[1.0]], [[10.0]], [[100.0]]])
    cos, sin = Rotation(shift, torch.tensor([1.0, 0.5, 0.25]), torch.tensor([2, 0, 1])).angles()
    wanted = torch.tensor([100.0, 0.5, 2.5])
    assert torch.equal(cos[0, 0], wanted.cos())
    assert torch.equal(sin[0, 0], wanted.sin())
