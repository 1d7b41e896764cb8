"""The scoring kernel against its reference, and the reference against the parts it stands for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from hermes.errors import HermesError, SettingError
from hermes.kernels import Kernels, blended_scores
from tests.support.poison import devices, poisoned
from tests.support.tolerances import close

pytestmark = pytest.mark.unit
SHAPES = [(1, 1, 1, 1), (3, 2, 1, 129), (5, 1, 2, 400), (2, 2, 3, 7)]


def _case(shape: tuple[int, ...], device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    attention = torch.rand(*shape, generator=generator) ** 8
    numbers = torch.rand(3, shape[0], generator=generator) * torch.tensor([[1.0], [20.0], [1.0]])
    numbers[0, 0] = 1.0
    return attention.to(device), *numbers.to(device)


@devices
@pytest.mark.parametrize("recursive", [False, True], ids=["raw", "recursive"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_score(shape: tuple[int, ...], recursive: bool, device: str) -> None:
    from hermes.kernels import score_triton

    case = _case(shape, device)
    with poisoned():
        ours = score_triton.blended_scores(*case, recursive=recursive)
    close("kernel_score", ours, blended_scores(*case, recursive=recursive))


@devices
def test_kernel_score_of_strided_numbers(device: str) -> None:
    from hermes.kernels import score_triton

    attention, *numbers = _case(SHAPES[1], device)
    columns = torch.stack(numbers, dim=1).unbind(dim=1)
    assert not columns[0].is_contiguous()
    with poisoned():
        ours = score_triton.blended_scores(attention, *columns)
    close("kernel_score", ours, blended_scores(attention, *numbers))


@devices
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_score_by_identity(shape: tuple[int, ...], device: str) -> None:
    from hermes.kernels import score_triton

    case = _case(shape, device)
    partner = torch.randint(-1, shape[-1], shape, generator=torch.Generator().manual_seed(1)).to(device)
    with poisoned():
        ours = score_triton.blended_scores(*case, partner=partner)
    close("kernel_score", ours, blended_scores(*case, partner=partner))


def test_kernel_score_refuses_recursion_by_identity() -> None:
    from hermes.kernels import score_triton

    case = _case(SHAPES[1], "cpu")
    partner = torch.zeros(SHAPES[1], dtype=torch.int64)
    with pytest.raises(HermesError, match="recursive"):
        score_triton.blended_scores(*case, partner=partner, recursive=True)
    kernels = Kernels("triton")
    ours = kernels.blended_scores(*case, partner=partner, recursive=True)
    assert torch.equal(ours, blended_scores(*case, partner=partner, recursive=True))


@pytest.mark.parametrize(
    ("wanted", "x", "provider", "reason"),
    [
        ("auto", torch.zeros(1, 2, 64, 64), "torch", "the tensor is on the cpu"),
        ("torch", torch.zeros(1, 2, 64, 64), "torch", "memory.kernels=torch"),
        ("triton", torch.zeros(1, 2, 64, 64), "triton", "memory.kernels=triton"),
        ("triton", torch.zeros(1, 2, 64, 64).double(), "torch", "no kernel for float64"),
        ("triton", torch.zeros(1, 2, 64, 512), "torch", "no kernel for heads of 512 channels"),
    ],
)
def test_kernel_choice_has_a_reason(wanted: str, x: Tensor, provider: str, reason: str) -> None:
    kernels = Kernels(wanted)
    choice = kernels.choose("rotate", x)
    assert (choice.provider, choice.reason) == (provider, reason)
    assert kernels.chosen == {"rotate": choice}


def test_kernel_forced_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match=r"memory\.kernels"):
        Kernels("triton")


@pytest.mark.thorough
def test_kernel_sources_compile_for_a_gpu() -> None:
    """The interpreter takes programs that the compiler refuses; compiling needs no GPU."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.compile_kernels"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "kernels compiled" in done.stdout
