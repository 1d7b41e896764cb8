"""A few tokens through a freshly loaded decoder: does our arithmetic agree with the model's own?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from hermes.attention import AttentionMass, attention_set, memory_attention_set, reading
from hermes.backbone.backbone import Backbone
from hermes.errors import UnsupportedModelError
from hermes.memory import KVMemory
from hermes.tokens import Provenance, expand_axes

_HELD, _ASKED, _SHIFT = 12, 4, 5
# Largest relative difference that rounding explains, per dtype.
_ALLOWED = {torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25}


@torch.no_grad()
def self_check(backbone: Backbone) -> dict[str, float]:
    """Compare rotation, memory attention and the attention probe with the decoder's own eager attention.

    Three short forward passes, run once per loaded model.

    Returns:
        the relative difference of each comparison.

    Raises:
        UnsupportedModelError: one is larger than rounding explains: this decoder's positions or attention
            are not what Hermes takes them for.
    """
    ids = torch.arange(_HELD + _ASKED, device=backbone.device)[None] % backbone.text_config.vocab_size
    embeds = backbone.embed(ids)
    config = backbone.text_config
    with attention_set(backbone.model, "eager"):
        plain, moved = DynamicCache(config=config), DynamicCache(config=config)
        _forward(backbone, embeds[:, :_HELD], 0, plain)
        # Each axis moves by its own amount, so that axes taken for one another show.
        _forward(backbone, embeds[:, :_HELD], 0, moved, shift=_SHIFT)
        expected = _forward(backbone, embeds[:, _HELD:], _HELD, plain, output_attentions=True)

    memory = KVMemory(backbone.layer_specs, backbone.rotary, window_rotary=backbone.window_rotary)
    probe, first = AttentionMass(only=[0]), backbone.managed[0]
    with memory_attention_set(backbone.model):
        with reading(memory):
            _forward(backbone, embeds[:, :_HELD], 0, memory)
        positions = torch.arange(_HELD, dtype=torch.float32, device=embeds.device)
        memory.commit(expand_axes(positions, backbone.axes), Provenance.text(_HELD), _HELD)
        with reading(memory, probe):
            ours = _forward(backbone, embeds[:, _HELD:], _HELD, memory)

    # The first layer shows rotation and probe without the rounding that depth adds up.
    shift = _shifts(backbone, _SHIFT)[..., None].expand(-1, -1, -1, _HELD).to(memory[0].keys.device)
    keys, expected_keys = (backbone.rotary.canonical(part.layers[first].keys) for part in (plain, moved))
    turned = backbone.rotary.rotate(keys[:, :, :_HELD], shift)
    # Recurrent layers have no weights to tell.
    seen = sum(spec.kind != "recurrent" for spec in backbone.layer_specs[:first])
    weights: Tensor = expected.attentions[seen][..., :_HELD].float().mean(dim=(1, 2))
    found = {
        "rotation": _apart(turned, expected_keys),
        "attention": _apart(ours.last_hidden_state, expected.last_hidden_state),
        "probe": _apart(probe.result()[0][:, 0], weights),
    }
    allowed = _ALLOWED.get(backbone.dtype, 0.25)
    wrong = {name: value for name, value in found.items() if not value <= allowed}
    if wrong:
        parts = ", ".join(f"{name} differs by {value:.1%}" for name, value in wrong.items())
        raise UnsupportedModelError(
            f"{backbone.config.checkpoint or backbone.config.family}: the self-check failed ({parts}; "
            f"allowed {allowed:.1%}). Hermes does not understand this decoder's positions or attention."
        )
    return found


def _shifts(backbone: Backbone, shift: int) -> Tensor:
    """How far each position axis is moved, ``[A, 1, 1]``: shift, 2 shift, 3 shift."""
    return shift * torch.arange(1.0, backbone.axes + 1)[:, None, None]


def _forward(
    backbone: Backbone, embeds: Tensor, start: int, cache: Any, *, shift: int = 0, **options: Any
) -> Any:
    positions = torch.arange(start, start + embeds.shape[1], device=embeds.device)[None]
    positions = expand_axes(positions, backbone.axes) + _shifts(backbone, shift).to(embeds.device)
    return backbone.run(embeds, positions, cache, **options)


def _apart(ours: Tensor, theirs: Tensor) -> float:
    theirs = theirs.to(ours.device).float()
    return float((ours.float() - theirs).abs().max() / theirs.abs().max().clamp(min=1e-9))
