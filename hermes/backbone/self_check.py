"""A few tokens through a freshly loaded decoder: does our arithmetic agree with the model's own?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from hermes.attention import (
    AttentionMass,
    AttentionProbe,
    AttentionView,
    attention_set,
    memory_attention_set,
    reading,
)
from hermes.attention.probe import together
from hermes.backbone.backbone import Backbone
from hermes.backbone.layer_specs import layer_specs
from hermes.backbone.rotary import allowed_misfit, key_motions, misfit
from hermes.errors import UnsupportedModelError
from hermes.kernels import rotate
from hermes.tokens import Provenance, expand_axes

_HELD, _FIRST, _ASKED = 12, 7, 4
# Windows up to this size are run past their end; of larger ones the size alone is compared.
_SMALL_WINDOW = 64
# Largest relative difference that rounding explains, per dtype: after all layers, and of one operation.
_ALLOWED = {torch.float32: 1e-3, torch.float16: 0.1}
_ALLOWED_ONCE = {torch.float32: 1e-3}
# The part that is wrong where a layer of some kind is the first to differ.
_PART = {"managed": "attention", "window": "window", "recurrent": "state", "shared": "attention"}


@torch.no_grad()
def self_check(backbone: Backbone) -> dict[str, float]:
    """Compare what we take this decoder for with what it does by itself, part by part.

    ``rotation``: keys of single tokens moved along each axis. ``projection``: :meth:`.Backbone.project`.
    ``scale``: of the attention scores. ``attention``, ``window``, ``state``: what each kind of layer makes of
    tokens that come in pieces over a memory, against the decoder's eager attention over all at once.
    ``chunks``: attention is right only where the tokens come at once. ``probe``: what an attention
    probe sees.

    Some short forward passes, run once per loaded model.

    Returns:
        the relative difference of each part.

    Raises:
        UnsupportedModelError: one is larger than rounding explains: the part is named.
    """
    # Weights of a few bits round their inputs, too: each call by its own scale.
    dtype = torch.int8 if _packed(backbone.decoder) else backbone.dtype
    allowed, once = _ALLOWED.get(dtype, 0.25), _ALLOWED_ONCE.get(dtype, 0.05)
    found = _checked(backbone, allowed_misfit(backbone.dtype), rotation=_rotation(backbone))
    windows = [spec.window for spec in backbone.layer_specs if spec.window is not None]
    told = [spec.window for spec in layer_specs(backbone.text_config) if spec.window is not None]
    _checked(backbone, allowed, window=0.0 if told == windows else float("inf"))
    held = max([_HELD, *(window + 4 for window in windows if window <= _SMALL_WINDOW)])
    vocabulary = backbone.model.get_input_embeddings().weight.shape[0]
    embeds = backbone.embed(torch.arange(held + _ASKED, device=backbone.device)[None] % vocabulary)

    with attention_set(backbone.model, "eager"), _recording(backbone) as theirs:
        _forward(backbone, embeds, 0, DynamicCache(config=backbone.text_config))
    ours = _over_memory(backbone, embeds, (_FIRST, held - _FIRST, _ASKED))
    projection = max(_projection(backbone, ours, held, index) for index in ours.views)
    found |= _checked(backbone, once, projection=projection)
    pairs = [(ours.views[index], theirs.weights.get(number)) for index, number in enumerate(backbone.managed)]
    scale = max(_scale(view, weights) for view, weights in pairs)
    found |= _checked(backbone, once, scale=scale)
    layers = _layers(backbone, ours, theirs, allowed)
    if not layers.get("attention", 0) <= allowed:
        whole = _over_memory(backbone, embeds, (held + _ASKED,))
        if max(_layers(backbone, whole, theirs, allowed).values()) <= allowed:
            layers = {"chunks": max(layers.values())}
    found |= _checked(backbone, allowed, **layers)
    weights = pairs[0][1]
    if weights is not None:
        seen = weights[:, :, -_ASKED:, :held].float().mean(dim=(1, 2))
        found |= _checked(backbone, allowed, probe=_apart(ours.mass[0][:, 0], seen))
    return found


def _packed(decoder: nn.Module) -> bool:
    """Whether weights of a decoder are held in fewer bits than they stand for."""
    weights = [
        weight for module in decoder.modules() if (weight := getattr(module, "weight", None)) is not None
    ]
    # Packed ones are asked for by a call, have integers, or are tensors of a kind of their own.
    return any(
        callable(weight) or not weight.is_floating_point() or type(weight).__module__.startswith("torchao")
        for weight in weights
    )


def _checked(backbone: Backbone, allowed: float, **parts: float) -> dict[str, float]:
    """Differences that are small enough.

    Raises:
        UnsupportedModelError: one is not.
    """
    for name, value in parts.items():
        if not value <= allowed:
            raise UnsupportedModelError(
                f"{backbone.name}: the self-check failed ({name} differs by {value:.1%}; allowed "
                f"{allowed:.1%}). Hermes does not understand this decoder's {name}."
            )
    return parts


@dataclass
class _Record:
    """What layers were given and gave, by number; of ours also what a probe saw, by managed index."""

    given: dict[int, Tensor] = field(default_factory=dict)
    made: dict[int, Tensor] = field(default_factory=dict)
    weights: dict[int, Tensor] = field(default_factory=dict)
    views: dict[int, AttentionView] = field(default_factory=dict)
    mass: dict[int, Tensor] = field(default_factory=dict)


class _Views(AttentionProbe):
    def __init__(self, record: _Record) -> None:
        self.record = record

    def observe(self, view: AttentionView) -> None:
        self.record.views[view.index] = view


@contextmanager
def _recording(backbone: Backbone) -> Iterator[_Record]:
    """Record what the decoder's layers are given and give, and the weights their attention shows."""
    record, handles = _Record(), []

    def enter(number: int) -> Any:
        def note(block: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            record.given[number] = arguments[0] if arguments else options["hidden_states"]

        return note

    def leave(number: int) -> Any:
        def note(block: Any, arguments: Any, output: Any) -> None:
            record.made[number] = output[0] if isinstance(output, tuple) else output

        return note

    def attend(number: int) -> Any:
        def note(module: Any, arguments: Any, output: Any) -> None:
            if isinstance(output, tuple) and len(output) > 1 and getattr(output[1], "ndim", 0) == 4:
                record.weights[number] = output[1]

        return note

    blocks: Any = backbone.decoder.layers
    for number, block in enumerate(blocks):
        handles += [
            block.register_forward_pre_hook(enter(number), with_kwargs=True),
            block.register_forward_hook(leave(number)),
            *(child.register_forward_hook(attend(number)) for child in block.children()),
        ]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def _over_memory(backbone: Backbone, embeds: Tensor, sizes: Sequence[int]) -> _Record:
    """Run tokens piece by piece over a memory; what the last piece showed."""
    memory = backbone.new_memory()
    start = 0
    with memory_attention_set(backbone.model), _recording(backbone) as record:
        for part in embeds.split(list(sizes), dim=1):
            size, mass = part.shape[1], AttentionMass(only=[0])
            with reading(memory, together(mass, _Views(record))):
                _forward(backbone, part, start, memory)
            record.mass = mass.result()
            positions = torch.arange(size, dtype=torch.float32, device=embeds.device)
            memory.commit(expand_axes(positions, backbone.axes), Provenance.text(size, first_id=start), size)
            start += size
    return record


def _rotation(backbone: Backbone) -> float:
    """The worst misfit of any layer's keys, moved along each axis."""
    windows = [number for number, spec in enumerate(backbone.layer_specs) if spec.kind == "window"]
    numbers = (*backbone.managed, *windows)
    rotaries = [backbone.rotary.layer(index) for index in range(backbone.num_layers)]
    rotaries += [backbone.window_rotary.layer(index) for index in range(len(windows))]
    far = any(bool(rotary.frequencies.any()) for rotary in rotaries)
    motions = key_motions(backbone, numbers, far=far)
    return max(misfit(motion, rotary) for motion, rotary in zip(motions, rotaries, strict=True))


def _projection(backbone: Backbone, ours: _Record, held: int, index: int) -> float:
    """What :meth:`.Backbone.project` gives, rotated by us, against what attention was given."""
    view, rotary = ours.views[index], backbone.rotary.layer(index)
    parts = backbone.project(index, ours.given[backbone.managed[index]])
    at = torch.arange(held, held + _ASKED, dtype=torch.float32, device=view.query.device)
    cos, sin = rotary.stretched(*rotary.angles(expand_axes(at[None, None], backbone.axes)))
    return max(
        _apart(rotate(part, cos, sin), seen) for part, seen in zip(parts, (view.query, view.own), strict=True)
    )


def _scale(view: AttentionView, weights: Tensor | None) -> float:
    """How far the scale of our scores is from the one that the decoder's own weights show.

    Its logarithms are a line over our scores. Where they are none, it is not the scale that differs: 0.
    """
    if weights is None:
        return 0.0
    held = view.memory.shape[2]
    groups = view.query.shape[1] // view.memory.shape[1]
    keys = view.memory.float().repeat_interleave(groups, dim=1)
    scores = (view.query.float() @ keys.mT * view.scaling).flatten()
    shown = weights[:, :, -_ASKED:, :held].to(scores.device).float()
    sure = (shown > 1e-3).flatten()
    row = torch.arange(shown[..., 0].numel(), device=scores.device).repeat_interleave(held)[sure]
    ours, theirs = (_centred(part[sure], row) for part in (scores, shown.flatten().log()))
    spread = ours.square().mean().sqrt()
    if not spread > 0.05:
        return 0.0
    slope = (ours * theirs).mean() / spread.square()
    left = (theirs - slope * ours).square().mean().sqrt()
    off = (slope - 1).abs()
    return float(off) if left <= 0.2 * off * spread + 0.02 else 0.0


def _centred(x: Tensor, row: Tensor) -> Tensor:
    """Values minus the mean of their row."""
    count = row.bincount(minlength=int(row.max()) + 1 if len(row) else 1).clamp(min=1)
    mean = x.new_zeros(len(count)).index_add(0, row, x) / count
    return x - mean[row]


def _layers(backbone: Backbone, ours: _Record, theirs: _Record, allowed: float) -> dict[str, float]:
    """The largest difference of each part, as far as the first layer that differs."""
    found: dict[str, float] = {}
    for number, spec in enumerate(backbone.layer_specs):
        made = ours.made[number][:, -_ASKED:]
        apart = _apart(made, theirs.made[number][:, -_ASKED:])
        if not apart <= allowed:
            return {**found, _PART[spec.kind]: apart}
        found[_PART[spec.kind]] = max(found.get(_PART[spec.kind], 0.0), apart)
    return found


def _forward(backbone: Backbone, embeds: Tensor, start: int, cache: Any) -> Any:
    positions = torch.arange(start, start + embeds.shape[1], device=embeds.device, dtype=torch.float32)
    return backbone.run(embeds, expand_axes(positions, backbone.axes), cache)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    theirs = theirs.to(ours.device).float()
    return float((ours.float() - theirs).norm() / theirs.norm().clamp(min=1e-9))
