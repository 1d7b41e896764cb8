"""A frame's tokens thinned by their neighbours in time, or merged with those in space."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes.policy.reduction import nearest
from hermes.tokens import Chunk, Provenance, TokenKind

__all__ = ["blurred", "merged", "otsu", "thinned"]


def otsu(x: Float[Tensor, " n"], bins: int = 128, top: float = 2.0) -> float:
    """Otsu's threshold of values from 0 to ``top``: the upper edge of the bin that splits them best.

    Source: arXiv 2603.02096 (FluxMem). The median where all values share a bin.

    >>> otsu(torch.tensor([0.1, 0.12, 1.5, 1.6])) < 1.5
    True
    """
    at = (x.float().clamp(0, top) / top * bins).long().clamp(max=bins - 1).cpu()
    count = torch.bincount(at, minlength=bins).double()
    middle = (torch.arange(bins) + 0.5) * top / bins
    low, total = count.cumsum(0), (count * middle).cumsum(0)
    high = low[-1] - low
    apart = total / low.clamp(min=1) - (total[-1] - total) / high.clamp(min=1)
    between = low * high * apart**2
    if float(between.max()) == 0:
        return float(x.median())
    return float((int(between.argmax()) + 1) * top / bins)


def _visual(piece: Chunk) -> Int[Tensor, " n"]:
    return (piece.tokens.kind == int(TokenKind.VISUAL)).nonzero().flatten().to(piece.embeds.device)


def _unit(piece: Chunk, slots: Int[Tensor, " n"]) -> Float[Tensor, "n d"]:
    return torch.nn.functional.normalize(piece.embeds[0, slots].float(), dim=-1)


def _near(a: Chunk, b: Chunk, i: Tensor, j: Tensor) -> Tensor:
    """Whether tokens ``i`` of one frame and ``j`` of another lie at most one row and one column apart."""
    rows = a.tokens.row[i.cpu()][:, None] - b.tokens.row[j.cpu()][None]
    cols = a.tokens.col[i.cpu()][:, None] - b.tokens.col[j.cpu()][None]
    return ((rows.abs() <= 1) & (cols.abs() <= 1)).to(a.embeds.device)


def thinned(piece: Chunk, before: Chunk | None, after: Chunk, alike: float) -> Chunk:
    """A frame without the tokens that the frames before and after it show too.

    Source: arXiv 2603.02096 (FluxMem), short to middle tier. A token's distance is one minus its largest
    cosine with the 3 x 3 tokens around its place; it stays where a distance reaches Otsu's threshold, unless
    its likeness to the frame after exceeds ``alike``. Tokens that are not visual stay.
    """
    here = _visual(piece)
    keep = torch.zeros(len(here), dtype=torch.bool, device=here.device)
    likeness = torch.zeros(len(here), device=here.device)
    for other in (before, after):
        if other is not None:
            there = _visual(other)
            same = _unit(piece, here) @ _unit(other, there).to(here.device).T
            likeness = same.masked_fill(~_near(piece, other, here, there), -1.0).amax(1)
            keep |= 1 - likeness >= otsu(1 - likeness)
    # Of the frame after, which came last.
    keep &= likeness <= alike
    drop = torch.zeros(len(piece), dtype=torch.bool, device=here.device)
    drop[here] = ~keep
    return piece.select((~drop).nonzero().flatten())


def blurred(piece: Chunk, side: int) -> Chunk:
    """A frame at a lower resolution: every ``side`` by ``side`` visual tokens become their mean.

    It takes the place of the first of them, with the mass of all. Tokens that are not visual stay.
    """
    here = _visual(piece)
    if side == 1 or not len(here):
        return piece
    at = here.cpu()
    rows, cols = piece.tokens.row[at] // side, piece.tokens.col[at] // side
    _, name = (rows * (int(cols.max()) + 1) + cols).unique(return_inverse=True)
    each = torch.bincount(name)
    first = torch.full_like(each, len(piece)).scatter_reduce(0, name, at, "amin")
    name, place, size = (x.to(here.device) for x in (name, first, each))
    levels = [level.clone() for level in (piece.embeds, *piece.deepstack)]
    for level in levels:
        total = level.new_zeros(len(each), level.shape[2], dtype=torch.float32)
        mean = total.index_add(0, name, level[0, here].float()) / size[:, None]
        level[0, place] = mean.to(level.dtype)
    table = piece.tokens.table.clone()
    table[7, first] = torch.zeros_like(each).index_add(0, name.cpu(), table[7, at])
    keep = torch.ones(len(piece), dtype=torch.bool, device=here.device)
    keep[here] = False
    keep[place] = True
    whole = replace(piece, embeds=levels[0], deepstack=tuple(levels[1:]), tokens=Provenance(table))
    return whole.select(keep.nonzero().flatten())


def merged(piece: Chunk) -> Chunk:
    """A frame whose neighbouring tokens are merged where they are alike.

    Source: arXiv 2603.02096 (FluxMem), middle to long tier. Two of eight neighbours are linked where their
    distance is at most Otsu's threshold of all such distances; each connected group becomes its mean, in the
    place of the member nearest to it, with the mass of all of them.
    """
    here = _visual(piece)
    if len(here) < 2:
        return piece
    unit = _unit(piece, here)
    far, edges = 1 - unit @ unit.T, _near(piece, piece, here, here).triu(1)
    if not bool(edges.any()):
        return piece
    edges &= far <= otsu(far[edges])
    # Every token takes the smallest number among its neighbours until nothing changes.
    linked = edges | edges.T | torch.eye(len(here), dtype=torch.bool, device=here.device)
    names = torch.arange(len(here), device=here.device)
    while True:
        least = torch.where(linked, names[None], len(here)).amin(1)
        if torch.equal(least, names):
            break
        names = least
    levels = [level.clone() for level in (piece.embeds, *piece.deepstack)]
    table, drop = piece.tokens.table.clone(), torch.zeros(len(piece), dtype=torch.bool, device=here.device)
    for name in names.unique():
        members = here[names == name]
        mean = piece.embeds[0, members].float().mean(0)
        place = nearest(piece.embeds[0, members].float(), mean)
        for level in levels:
            level[0, members[place]] = level[0, members].float().mean(0).to(level.dtype)
        table[7, members[place].cpu()] = table[7, members.cpu()].sum()
        drop[members] = True
        drop[members[place]] = False
    whole = replace(piece, embeds=levels[0], deepstack=tuple(levels[1:]), tokens=Provenance(table))
    return whole.select((~drop).nonzero().flatten())
