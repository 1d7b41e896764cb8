"""The attention-mass kernel against its reference."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from hermes.kernels import attention_mass
from tests.support.poison import devices, dtypes, poisoned, strided
from tests.support.tolerances import close

pytestmark = pytest.mark.unit
# batch, query heads, KV heads, queries, tokens, head width
SHAPES = [
    (1, 1, 1, 1, 1, 64),
    (2, 4, 2, 5, 17, 80),
    (1, 7, 1, 31, 65, 64),
    (1, 4, 4, 63, 300, 128),
    (2, 6, 2, 30, 515, 64),
]


def _case(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, kv_heads, queries, tokens, width = shape
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator).to(device, dtype)

    query = 3 * random(batch, heads, queries, width)
    return query, random(batch, kv_heads, tokens, width), random(batch, kv_heads, queries, width)


@devices
@dtypes
@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("own_keys", ["causal", "all", "none"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_mass(
    shape: tuple[int, ...], own_keys: str, pool: Literal["mean", "max"], dtype: torch.dtype, device: str
) -> None:
    from hermes.kernels import mass_triton

    query, memory, own = _case(shape, dtype, device)
    options: dict[str, Any] = {
        "scaling": shape[-1] ** -0.5,
        "causal": own_keys == "causal",
        "per_head": own_keys != "all",
        "pool": pool,
    }
    given = None if own_keys == "none" else own
    with poisoned():
        ours = mass_triton.attention_mass(
            strided(query), strided(memory), None if given is None else strided(given), **options
        )
    kind = "kernel_mass" if pool == "mean" else "kernel_largest"
    close(kind, ours, attention_mass(query, memory, given, **options))


@devices
@pytest.mark.parametrize("tokens", [4096, 8193])
def test_kernel_mass_long(tokens: int, device: str) -> None:
    from hermes.kernels import mass_triton

    query, memory, own = _case((1, 2, 1, 8, tokens, 64), torch.bfloat16, device)
    ours = mass_triton.attention_mass(query, memory, own, scaling=0.125)
    close("kernel_mass", ours, attention_mass(query, memory, own, scaling=0.125))


@devices
def test_kernel_mass_sharp_logits_stay_finite(device: str) -> None:
    from hermes.kernels import mass_triton

    query, memory, own = _case((1, 2, 1, 8, 70, 64), torch.float32, device)
    ours = mass_triton.attention_mass(40 * query, memory, own, scaling=1.0)
    close("kernel_mass", ours, attention_mass(40 * query, memory, own, scaling=1.0))


@devices
def test_kernel_mass_rounded_to_half(device: str) -> None:
    from hermes.kernels import mass_triton

    query, memory, own = _case((1, 4, 2, 9, 200, 64), torch.float16, device)
    options = {"scaling": 0.125, "dtype": torch.float16}
    ours = mass_triton.attention_mass(query, memory, own, **options)
    close("kernel_half_mass", ours, attention_mass(query, memory, own, **options))


def test_kernel_mass_of_no_memory() -> None:
    from hermes.kernels import mass_triton

    query, memory, own = _case((1, 2, 1, 4, 0, 64), torch.float32, "cpu")
    assert mass_triton.attention_mass(query, memory, own, scaling=1.0).shape == (1, 1, 0)
