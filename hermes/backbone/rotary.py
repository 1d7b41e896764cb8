"""How a decoder rotates its keys: found by moving single tokens and looking at what turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor
from transformers import DynamicCache

from hermes.errors import UnsupportedModelError
from hermes.tokens import Rotary

__all__ = ["KeyMotion", "read_rotary"]

# Frequencies that change with the sequence length would make stored keys wrong as the stream grows.
_UNSUPPORTED_ROPE = ("dynamic", "longrope")
# Tokens that are moved, and how far; float32 has all of these positions.
_TOKENS, _SHIFTS = 4, tuple(8.0**k for k in range(9))
# A turn by more than this many radians says nothing more of the frequency, only of rounding.
_FAR = 64.0
# Largest relative difference that rounding explains; a frequency that is off by 1 % makes at least 8 %.
_ALLOWED = {torch.float32: 2e-3, torch.float16: 1e-2}


class _Backbone(Protocol):
    """What of a backbone is needed here, before it has a rotary embedding."""

    axes: int
    model: Any

    @property
    def name(self) -> str: ...

    @property
    def text_config(self) -> Any: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def embed(self, ids: Int[Tensor, "B n"]) -> Float[Tensor, "B n hidden"]: ...

    def run(self, embeds: Tensor, positions: Tensor, cache: Any) -> Any: ...


@dataclass(frozen=True)
class KeyMotion:
    """Keys of a layer with every token alone, so that nothing but rotation depends on its position.

    Attributes:
        keys: as the decoder makes them, ``[1 + A L, S, D]``: at position 0, then for each axis moved along
            it by each of ``L`` shifts; ``S`` samples are tokens and heads.
        axes: position axes A.
    """

    keys: Float[Tensor, "moves S D"]
    axes: int

    def misfits(
        self, first: Int[Tensor, " P"], second: Int[Tensor, " P"], frequencies: Float[Tensor, " F"]
    ) -> Float[Tensor, "F A P"]:
        """How far channels ``(first, second)`` are from turning with each frequency along each axis alone.

        Relative to the keys, root mean square over samples, at the worst of the shifts.
        """
        pairs: Complex[Tensor, "moves S P"] = torch.complex(self.keys[..., first], self.keys[..., second])
        still, moved = pairs[0], pairs[1:].unflatten(0, (self.axes, len(_SHIFTS)))
        # |moved - turn still|^2 summed over samples, without the samples: [A, L, P]
        both = (still.abs().square() + moved.abs().square()).sum(-2)
        product = (still.conj() * moved).sum(-2)
        shifts = torch.tensor(_SHIFTS, dtype=torch.float64)
        angles = frequencies[:, None] * shifts
        turn = torch.polar(torch.ones_like(angles), -angles)[:, None, :, None]
        scale = both.clamp(min=torch.finfo(torch.float64).tiny) / 2
        turned = (both - 2 * (turn * product).real) / scale
        turned = turned.masked_fill((angles > _FAR)[:, None, :, None], 0).amax(2)
        stays = ((both - 2 * product.real) / scale).amax(1)
        others = torch.stack(
            [stays[[b for b in range(self.axes) if b != a]].sum(0) for a in range(self.axes)]
        )
        return torch.maximum(turned, others).clamp(min=0).sqrt()


def key_motions(backbone: _Backbone, numbers: Sequence[int], *, far: bool = True) -> list[KeyMotion]:
    """How the keys of decoder layers move; one forward of the decoder with tokens side by side.

    Args:
        far: move them beyond the positions the decoder was built for, as rotations allow.

    Raises:
        UnsupportedModelError: the decoder cannot be run on embeddings at any position over a cache.
    """
    axes, vocabulary = backbone.axes, backbone.model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, _TOKENS + 1) * vocabulary // (_TOKENS + 1)
    shifts = torch.tensor(_SHIFTS)
    if not far:
        shifts = shifts.clamp(max=getattr(backbone.text_config, "max_position_embeddings", 64) - 1)
    steps = torch.eye(axes)[:, :, None] * shifts  # [moved, axis, L]
    moves = torch.cat((torch.zeros(axes, 1), steps.transpose(0, 1).flatten(1)), dim=1)
    embeds = backbone.embed(ids[:, None]).repeat(moves.shape[1], 1, 1)
    cache = DynamicCache(config=backbone.text_config)
    try:
        backbone.run(embeds, moves.repeat_interleave(_TOKENS, dim=1)[..., None], cache)
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"{backbone.name}: its decoder cannot be run on embeddings at any position over a cache ({error})"
        ) from error
    found = []
    for number in numbers:
        keys = cache.layers[number].keys.detach().to("cpu", torch.float64)  # [moves tokens, H, 1, D]
        found.append(KeyMotion(keys.squeeze(2).unflatten(0, (-1, _TOKENS)).flatten(1, 2), axes))
    return found


@torch.no_grad()
def read_rotary(backbone: _Backbone, numbers: Sequence[int]) -> Rotary:
    """The rotary embedding of some layers of a decoder, by their numbers.

    Frequencies are read from the decoder (buffers named ``inv_freq``); which channels they turn, in pairs of
    which layout and along which position axis, is found by moving tokens: half-split or even and odd
    pairs, of all channels or of some, M-RoPE in sections or interleaved, or no rotation at all.

    Raises:
        UnsupportedModelError: frequencies that follow the length (``dynamic``, ``longrope``), or keys that
            move as no layout explains.
    """
    sources = list(_frequencies(backbone.model.get_decoder()))
    motions = key_motions(backbone, numbers, far=bool(sources))
    allowed = allowed_misfit(backbone.dtype)
    found: list[Rotary] = []
    for number, motion in zip(numbers, motions, strict=True):
        rotary = next((known for known in found if misfit(motion, known) <= allowed), None)
        rotary = rotary or _explanation(motion, sources, allowed)
        if rotary is None:
            raise UnsupportedModelError(
                f"{backbone.name}: the rotation of the decoder's layer "
                f"{number} is not understood: its keys do not turn in pairs of channels by "
                f"its frequencies ({', '.join(name for name, *_ in sources) or 'no inv_freq'}). Stored keys "
                "could not be moved to other positions"
            )
        found.append(rotary)
    same = all(rotary is found[0] for rotary in found)
    return found[0] if same else replace(found[0], each=tuple(found))


def allowed_misfit(dtype: torch.dtype) -> float:
    """Largest misfit that rounding explains."""
    return _ALLOWED.get(dtype, 4e-2)


def misfit(motion: KeyMotion, rotary: Rotary) -> float:
    """How far keys are from turning as ``rotary`` says, relative to them; infinite for another width."""
    half = len(rotary.frequencies)
    if motion.keys.shape[-1] != 2 * half:
        return float("inf")
    order = torch.arange(2 * half) if rotary.order is None else rotary.order.cpu()
    frequencies, pairs = rotary.frequencies.double().cpu(), torch.arange(half)
    each = motion.misfits(order[:half], order[half:], frequencies)
    return float(each[pairs, rotary.axis.cpu(), pairs].amax())


def _frequencies(decoder: Any) -> Iterator[tuple[str, Tensor, float]]:
    """Name, frequencies and factor of every rotary embedding in the decoder, the same ones once.

    Raises:
        UnsupportedModelError: frequencies that follow the length.
    """
    seen: list[tuple[Tensor, float]] = []
    for name, buffer in decoder.named_buffers():
        path, _, last = name.rpartition(".")
        if not last.endswith("inv_freq") or "original" in last:
            continue
        owner, kind = decoder.get_submodule(path), last.removesuffix("inv_freq")
        rope_type = getattr(owner, "rope_type", "default")
        if isinstance(rope_type, dict):
            rope_type = rope_type.get(kind.rstrip("_"), "default")
        if rope_type in _UNSUPPORTED_ROPE:
            raise UnsupportedModelError(
                f"this checkpoint uses {rope_type!r} RoPE scaling, whose frequencies change with the length: "
                "keys kept from an endless stream would be rotated wrongly. Use a checkpoint with 'default', "
                "'linear' or 'yarn' RoPE."
            )
        factor = float(getattr(owner, f"{kind}attention_scaling", 1.0))
        frequencies = buffer.detach().float()
        if not any(torch.equal(frequencies, a) and factor == b for a, b in seen):
            seen.append((frequencies, factor))
            yield name, frequencies, factor


def _explanation(
    motion: KeyMotion, sources: list[tuple[str, Tensor, float]], allowed: float
) -> Rotary | None:
    """The layout and frequencies that explain how keys move; None where nothing does."""
    width = motion.keys.shape[-1]
    none = torch.zeros(width // 2)
    for frequencies, factor in [(none, 1.0), *(source[1:] for source in sources)]:
        count = len(frequencies)
        for order in _layouts(width, count):
            given = torch.cat((frequencies.cpu(), none))[: width // 2].double()
            choices = given.unique()
            each = motion.misfits(order[: width // 2], order[width // 2 :], choices)  # [F, A, P]
            own = torch.searchsorted(choices, given)
            least, axis = each[own, :, torch.arange(width // 2)].min(dim=-1)
            if (least > allowed).any():
                # Pairs that take the frequencies in an order of their own.
                least, best = each.flatten(0, 1).min(dim=0)
                given = torch.where(least <= allowed, choices[best // motion.axes], given)
                axis = best % motion.axes
            if (least > allowed).any():
                continue
            device = frequencies.device
            axis = axis.masked_fill(given == 0, 0).to(device)
            scaled = torch.ones(width // 2, device=device)
            scaled[:count] = factor
            return Rotary(
                given.float().to(device),
                axis,
                motion.axes,
                scaled if factor != 1 and count < width // 2 else factor,
                None if torch.equal(order, torch.arange(width)) else order.to(device),
            )
    return None


def _layouts(width: int, count: int) -> Iterator[Int[Tensor, " D"]]:
    """Channel orders in which ``count`` rotated pairs may lie, the other channels behind them."""
    if not 0 < count <= width // 2:
        return
    steps = torch.arange(count)
    for start in dict.fromkeys((0, width - 2 * count)):
        rest = torch.tensor([c for c in range(width) if not start <= c < start + 2 * count], dtype=torch.long)
        beside = rest.chunk(2) if len(rest) else (rest, rest)
        for first, second in ((steps, steps + count), (2 * steps, 2 * steps + 1)):
            yield torch.cat((start + first, beside[0], start + second, beside[1]))
