"""Rotation and position arithmetic against formulas written out."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.backbone import BackboneConfig, load_backbone
from hermes.backbones.tiny import TinyLlavaOnevision, TinyQwen2_5VL, TinyQwen3VL
from hermes.errors import UnsupportedModelError
from hermes.kernels import rotate
from hermes.tokens import Rotary, compacted, dense_ranks, expand_axes
from tests.support.references import FAMILIES, axis_of_channel, rope, rope_settings, tiny, toy_rotary
from tests.support.tolerances import close


def as_complex(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Channel pairs as complex numbers, multiplied by ``exp(i angle)``."""
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.exp(1j * angle.double())
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.unit
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 5, 8), (1, 2, 0, 4), (3, 1, 7, 64)], ids=str)
def test_rotation_is_a_complex_product(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    angle = torch.randn(*shape[:-1], shape[-1] // 2, generator=torch.Generator().manual_seed(1)) * 3
    before = x.clone()
    out = rotate(x, angle.cos(), angle.sin())
    assert out.dtype == dtype
    assert torch.equal(x, before)
    close("rotation", out, as_complex(x.float(), angle))
    # Seen through a transposed view, and with one angle for all heads.
    turned = rotate(x.transpose(0, 1).contiguous().transpose(0, 1), angle[:, :1].cos(), angle[:, :1].sin())
    close("rotation", turned, as_complex(x.float(), angle[:, :1].expand_as(angle)))


@pytest.mark.unit
def test_no_turn_changes_no_bit():
    x = torch.randn(1, 2, 9, 8).to(torch.bfloat16)
    assert torch.equal(toy_rotary(3).rotate(x, torch.zeros(3, 1, 1, 9)), x)


@pytest.mark.unit
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    axes=st.sampled_from([1, 3]),
    first=st.lists(st.integers(-500, 500), min_size=3, max_size=3),
    second=st.lists(st.integers(-500, 500), min_size=3, max_size=3),
)
def test_turns_add_up(axes, first, second):
    rotary = toy_rotary(axes)
    x = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    a, b = (torch.tensor(p[:axes]).float().view(axes, 1, 1, 1) for p in (first, second))
    close(
        "turns",
        rotary.rotate(rotary.rotate(x, a), b),
        rope(x, a[:, 0, 0] + b[:, 0, 0], rotary.frequencies.tolist(), rotary.axis.tolist()),
    )


@pytest.mark.unit
def test_angles_per_stream_and_head():
    rotary = Rotary(torch.tensor([1.0, 0.25, 0.5]), torch.tensor([0, 2, 1]), axes=3)
    positions = torch.randint(0, 50, (3, 2, 4, 5)).float()
    cos, sin = rotary.angles(positions)
    assert cos.shape == sin.shape == (2, 4, 5, 3)
    for channel, (frequency, axis) in enumerate([(1.0, 0), (0.25, 2), (0.5, 1)]):
        angle = positions[axis, 1, 3, 2].item() * frequency
        assert cos[1, 3, 2, channel].item() == pytest.approx(math.cos(angle), abs=1e-5)
        assert sin[1, 3, 2, channel].item() == pytest.approx(math.sin(angle), abs=1e-5)


@pytest.mark.unit
def test_text_is_at_one_position_on_every_axis():
    assert expand_axes(torch.tensor([4.0, 5.0]), 3).tolist() == [[4.0, 5.0]] * 3


# -- the model's own rotary embedding ---------------------------------------------------------------------


class WideQwen2_5VL(TinyQwen2_5VL):
    text: ClassVar = {
        "num_hidden_layers": 1,
        "hidden_size": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }


class WideQwen3VL(TinyQwen3VL):
    text: ClassVar = {
        "num_hidden_layers": 1,
        "head_dim": 128,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    }


@pytest.mark.model
@pytest.mark.parametrize("load", [*FAMILIES, WideQwen2_5VL, WideQwen3VL], ids=str)
def test_frequencies_and_axes_are_the_checkpoints(load):
    backbone = tiny(load) if isinstance(load, str) else load.load(BackboneConfig())
    frequencies, axes = rope_settings(backbone)
    assert backbone.rotary.frequencies.tolist() == pytest.approx(frequencies, rel=1e-6)
    assert backbone.rotary.axis.tolist() == axes
    assert backbone.rotary.axes == backbone.axes
    assert set(axes) == set(range(backbone.axes))


@pytest.mark.unit
def test_sections_written_out():
    assert axis_of_channel([2, 3, 3], 8, False) == [0, 0, 1, 1, 1, 2, 2, 2]
    assert axis_of_channel([4, 2, 2], 8, True) == [0, 1, 2, 0, 1, 2, 0, 0]


def with_rope(kind: str, family: type = TinyLlavaOnevision, **settings: object) -> type:
    rope_parameters = {"rope_type": kind, "rope_theta": 1e6, **settings}
    return type(
        f"{kind}_{family.__name__}", (family,), {"text": {**family.text, "rope_parameters": rope_parameters}}
    )


@pytest.mark.model
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("dynamic", {"factor": 2.0}),
        (
            "longrope",
            {
                "factor": 2.0,
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
                "original_max_position_embeddings": 4096,
            },
        ),
    ],
)
def test_frequencies_that_follow_the_length_are_refused(kind, settings):
    with pytest.raises(UnsupportedModelError, match=kind):
        with_rope(kind, **settings).load(BackboneConfig()).check()


@pytest.mark.model
def test_windows_alone_are_refused():
    text: ClassVar = {
        **TinyLlavaOnevision.text,
        "use_sliding_window": True,
        "sliding_window": 64,
        "max_window_layers": 0,
    }
    sliding = type("Sliding", (TinyLlavaOnevision,), {"text": text})
    with pytest.raises(UnsupportedModelError, match="none of its 10 layers has full attention"):
        sliding.load(BackboneConfig()).check()
    load_backbone("tiny_llava_onevision").check()


# -- re-indexing ------------------------------------------------------------------------------------------

halves = st.integers(0, 40).map(lambda n: n / 2)


@pytest.mark.unit
@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=st.lists(st.lists(halves, min_size=4, max_size=4), min_size=1, max_size=3))
def test_dense_ranks_count_distinct_smaller_values(rows):
    expected = [[float(len({other for other in row if other < value})) for value in row] for row in rows]
    assert dense_ranks(torch.tensor(rows)).tolist() == expected


@pytest.mark.unit
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    tokens=st.lists(st.tuples(halves, halves, halves), max_size=12, unique=True),
    prefix=st.integers(0, 5),
    axes=st.sampled_from([1, 3]),
)
def test_compaction_keeps_prefix_order_and_distinctness(tokens, prefix, axes):
    if axes == 1:
        tokens = sorted({token[:1] for token in tokens})
    head = [(float(p),) * axes for p in range(prefix)]
    rest = [tuple(prefix + x for x in token) for token in tokens]
    positions = torch.tensor([*head, *rest]).view(-1, axes).T
    new = compacted(positions, prefix)
    assert torch.equal(new[:, :prefix], positions[:, :prefix])
    for axis in range(axes):
        was, now = positions[axis, prefix:].tolist(), new[axis, prefix:].tolist()
        assert sorted(set(now)) == [float(prefix + i) for i in range(len(set(was)))]
        for i in range(len(was)):
            for j in range(i):
                assert (was[i] > was[j]) == (now[i] > now[j])
    assert len(set(map(tuple, new.T.tolist()))) == len(positions.T)
    assert torch.equal(compacted(new, prefix), new)
    if axes == 1:
        assert new[0].tolist() == [float(i) for i in range(new.shape[1])]
