"""Outputs that a kernel leaves unwritten show up as NaN."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

# The CPU runs kernels in Triton's interpreter, a GPU natively.
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill what ``torch.empty`` and its like return with NaN."""

    def filled(made: Any) -> Any:
        def empty(*args: Any, **kwargs: Any) -> Tensor:
            out: Tensor = made(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return empty

    with (
        patch.object(torch, "empty", filled(torch.empty)),
        patch.object(torch, "empty_like", filled(torch.empty_like)),
    ):
        yield


def strided(x: Tensor) -> Tensor:
    """The same numbers, not contiguous: a window of a longer tensor, its axes swapped in memory."""
    longer = torch.cat((x, x), dim=2).transpose(1, 2).contiguous()
    return longer.transpose(1, 2)[:, :, : x.shape[2]]
