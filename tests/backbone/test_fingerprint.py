"""A fingerprint of weights: the same for the same bits, another for any other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from hermes.backbone import Backbone, BackboneConfig, fingerprint
from hermes.backbone.fingerprint import weights_fingerprint


class Bare(Backbone):
    """A model and nothing else."""

    tokens_per_frame = video = None

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, None, BackboneConfig())


def backbone(*weights: Tensor, names: tuple[str, ...] = ("a", "b", "c")) -> Bare:
    model: Any = nn.Module()
    for name, weight in zip(names, weights, strict=False):
        model.register_parameter(name, nn.Parameter(weight, requires_grad=False))
    return Bare(model)


def numbers(seed: int = 0, size: tuple[int, ...] = (300, 500)) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_equal_weights_have_one_fingerprint() -> None:
    assert weights_fingerprint(backbone(numbers())) == weights_fingerprint(backbone(numbers().clone()))
    # Neither the layout in memory nor its alignment counts.
    turned = numbers().t().contiguous().t()
    shifted = torch.cat((torch.zeros(1), numbers().flatten()))[1:].view(300, 500)
    assert weights_fingerprint(backbone(turned)) == weights_fingerprint(backbone(numbers()))
    assert weights_fingerprint(backbone(shifted)) == weights_fingerprint(backbone(numbers()))
    odd = torch.cat((torch.zeros(1), numbers().flatten())).half()[1:].view(300, 500)
    assert weights_fingerprint(backbone(odd)) == weights_fingerprint(backbone(numbers().half()))


def test_weights_that_consist_of_several_tensors() -> None:
    # As torchao keeps integers and their scales.
    one, same, other = (TwoTensor(numbers(), numbers(seed)) for seed in (1, 1, 2))
    found = weights_fingerprint(backbone(one))
    assert found == weights_fingerprint(backbone(same))
    assert found not in {weights_fingerprint(backbone(other)), weights_fingerprint(backbone(numbers()))}


def swapped(x: Tensor, i: int, j: int) -> Tensor:
    flat = x.flatten().clone()
    flat[i], flat[j] = x.flatten()[j], x.flatten()[i]
    return flat.view(x.shape)


def flipped(x: Tensor, bit: int) -> Tensor:
    raw = x.clone().flatten().view(torch.uint8)
    raw[bit // 8] ^= 1 << bit % 8
    return raw.view(x.dtype).view(x.shape)


@pytest.mark.parametrize("bit", [0, 7, 31, 32 * 65536 + 5, 32 * 131072 - 1, 32 * 150000 - 1])
def test_every_bit_counts(bit: int) -> None:
    assert weights_fingerprint(backbone(flipped(numbers(), bit))) != weights_fingerprint(backbone(numbers()))


def test_order_shape_type_and_names_count() -> None:
    x, y = numbers(), numbers(1)
    same = weights_fingerprint(backbone(x, y))
    others = [
        backbone(y, x),
        backbone(x, y, names=("a", "c")),
        backbone(x),
        backbone(x.view(500, 300), y),
        backbone(x.view(torch.int32), y),
        backbone(x.double(), y),
        backbone(swapped(x, 0, 1), y),
        backbone(swapped(x, 3, 149_999), y),
        backbone(swapped(x, 100, 100 + 65536), y),
        backbone(x.flip(0), y),
        backbone(-x, y),
    ]
    found = [weights_fingerprint(other) for other in others]
    assert len({same, *found}) == 1 + len(others)


def test_buffers_of_the_checkpoint_count_and_others_do_not() -> None:
    with_buffers = [backbone(numbers()) for _ in range(4)]
    for one, (kept, derived) in zip(with_buffers[1:], [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0)], strict=True):
        one.model.register_buffer("kept", torch.tensor(kept))
        one.model.register_buffer("derived", torch.tensor(derived), persistent=False)
    plain, first, other, derived_only = map(weights_fingerprint, with_buffers)
    assert first == derived_only
    assert len({plain, first, other}) == 3


def test_a_change_in_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    one = backbone(numbers())
    before = weights_fingerprint(one)
    one.model.a.data.mul_(1.001)
    assert weights_fingerprint(one) != before
    # A large model is read once, until something is written to it.
    monkeypatch.setattr(fingerprint, "_SMALL_BYTES", 0)
    before = weights_fingerprint(one)
    sums = []
    monkeypatch.setattr(fingerprint, "_sums", lambda tensor: sums.append(tensor) or b"")
    assert weights_fingerprint(one) == before
    assert not sums
    one.model.a.mul_(2)
    assert weights_fingerprint(one) != before
    assert sums


def test_weights_that_are_offloaded_are_fetched() -> None:
    from accelerate import cpu_offload

    def small() -> Bare:
        torch.manual_seed(0)
        return Bare(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).requires_grad_(False))

    away = small()
    cpu_offload(away.model, execution_device=torch.device("cpu"))
    assert next(away.model.parameters()).is_meta
    assert weights_fingerprint(away) == weights_fingerprint(small())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_the_same() -> None:
    there = backbone(numbers().half(), numbers(1, (7,)))
    here = weights_fingerprint(there)
    there.model.cuda()
    assert weights_fingerprint(there) == here
