"""What reductions of visual tokens before the decoder are made of."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hermes.tokens import Chunk, Provenance, TokenKind

__all__ = [
    "cosine",
    "density_peaks",
    "frame_slots",
    "inserted",
    "nearest",
    "segmented",
    "temporal_reduction",
    "with_background",
]


def frame_slots(chunk: Chunk) -> list[Int[Tensor, " n"]]:
    """Where each frame's visual tokens are in a chunk, in order.

    Frames encoded together count as one.
    """
    visual = (chunk.tokens.kind == int(TokenKind.VISUAL)).nonzero().flatten()
    frame = chunk.tokens.frame[visual]
    return [visual[frame == one].to(chunk.embeds.device) for one in frame.unique_consecutive()]


def cosine(a: Float[Tensor, "*n d"], b: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
    """Cosine along the last axis, in float32."""
    return torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)


def nearest(x: Float[Tensor, "n d"], to: Float[Tensor, " d"]) -> int:
    """Which of some vectors is nearest to another; of equally near ones, as two are to their mean, the first.

    >>> nearest(torch.tensor([[4.0], [1.0], [3.0]]), torch.tensor([2.0]))
    1
    """
    distance = (x - to).norm(dim=1)
    return int((distance <= distance.min() * (1 + 1e-4)).nonzero()[0])


def density_peaks(
    x: Float[Tensor, "n d"], count: int, neighbours: int
) -> tuple[Int[Tensor, " count"], Int[Tensor, " n"]]:
    """Density-peak clustering over nearest neighbours (DPC-kNN).

    Source: arXiv 2510.18269 (StreamingTOM), for static tokens. Distances are divided by ``sqrt(d)``; the
    density of a token is ``exp(-mean squared distance to its nearest neighbours)``; its separation the
    distance to the nearest denser token (of equally dense ones the earlier counts as denser), or for the
    densest the largest distance. Peaks are the tokens with the largest product of the two.

    Returns:
        the peaks, ascending, and for every token the number of the peak nearest to it, a peak's its own.

    >>> density_peaks(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), 2, 1)[1].tolist()
    [0, 0, 1, 1]
    """
    n = len(x)
    far = torch.cdist(x.float(), x.float(), compute_mode="donot_use_mm_for_euclid_dist") / x.shape[1] ** 0.5
    near = min(neighbours, n - 1)
    # The nearest token of all is the token itself.
    nearest = far.topk(near + 1, largest=False).values[:, 1:]
    density = (-(nearest**2).mean(1)).exp() if near else torch.ones(n, device=x.device)
    order = torch.arange(n, device=x.device)
    denser = density[None] > density[:, None]
    denser |= (density[None] == density[:, None]) & (order[None] < order[:, None])
    lone = far.masked_fill(~denser, float("inf")).amin(1)
    separation = torch.where(denser.any(1), lone, far.amax(1))
    peaks = (density * separation).topk(count).indices.sort().values
    assigned = far[:, peaks].argmin(1)
    assigned[peaks] = torch.arange(count, device=x.device)
    return peaks, assigned


def temporal_reduction(
    x: Float[Tensor, "n d"],
    previous: Float[Tensor, "m d"] | None,
    worth: Float[Tensor, " n"],
    room: int,
    static: float,
    neighbours: int,
    beta: float,
) -> tuple[Int[Tensor, " k"], Float[Tensor, "k n"]]:
    """A frame's tokens cut to ``room``: what moves stays by its worth, what stands still is merged.

    Source: arXiv 2510.18269 (StreamingTOM), causal temporal reduction. A token is static where its cosine
    with the previous frame's at the same position exceeds ``static``; ``floor(room * static tokens / n)``
    of the room is theirs, and what one kind cannot fill goes to the other. Each of their density peaks
    becomes ``beta`` itself and ``1 - beta`` the mean of the static tokens nearest to it, itself among them.

    Returns:
        the tokens that stay, ascending, and the weights of the tokens that each is mixed of.
    """
    count = len(x)
    same = torch.zeros(count, dtype=torch.bool, device=x.device)
    if previous is not None and previous.shape == x.shape:
        same = cosine(x, previous.to(x.device)) > static
    still, moving = same.nonzero().flatten(), (~same).nonzero().flatten()
    of_moving = min(room - room * len(still) // count, len(moving))
    of_still = min(room - of_moving, len(still))
    of_moving = min(room - of_still, len(moving))
    kept = moving[worth[moving].topk(of_moving).indices]
    weights = torch.zeros(count, count, device=x.device)
    weights[kept, kept] = 1.0
    if of_still:
        peaks, nearest = density_peaks(x[still], of_still, neighbours)
        members = torch.nn.functional.one_hot(nearest, of_still).T.float()  # [peaks, still]
        mixed = (1 - beta) * members / members.sum(1, keepdim=True)
        mixed[torch.arange(of_still, device=x.device), peaks] += beta
        weights[still[peaks][:, None], still] = mixed
        kept = torch.cat((kept, still[peaks]))
    kept = kept.sort().values
    return kept, weights[kept]


def inserted(chunk: Chunk, at: int, embed: Float[Tensor, " hidden"], token: Provenance) -> Chunk:
    """A chunk with one more token before slot ``at``, which costs one position.

    The token stands one behind the largest position before it, and what follows starts
    one behind the token on every axis.
    """
    before, after = chunk.positions[:, :at], chunk.positions[:, at:]
    place = float(torch.floor(before.amax())) + 1 if at else 0.0
    if after.shape[1]:
        after = after - after.amin(1, keepdim=True) + place + 1
    middle = torch.full_like(chunk.positions[:, :1], place)

    def grown(x: Tensor, row: Tensor) -> Tensor:
        return torch.cat((x[:, :at], row.to(x)[None, None], x[:, at:]), dim=1)

    positions = torch.cat((before, middle, after), dim=1)
    left = chunk.advance - float(chunk.positions.amax()) - 1
    table = chunk.tokens.table
    saliency = chunk.saliency
    if saliency is not None:
        saliency = torch.cat((saliency[:at], saliency.new_zeros(1), saliency[at:]))
    return replace(
        chunk,
        embeds=grown(chunk.embeds, embed),
        positions=positions,
        advance=int(torch.floor(positions.amax()) + 1 + max(int(left), 0)),
        tokens=Provenance(torch.cat((table[..., :at], token.table, table[..., at:]), dim=-1)),
        deepstack=tuple(grown(level, torch.zeros_like(embed)) for level in chunk.deepstack),
        saliency=saliency,
    )


def segmented(
    chunk: Chunk,
    open_segment: Float[Tensor, "k hidden"] | None,
    boundary: float,
    least: int,
    most: int,
    room: int,
    summary: int | None,
) -> tuple[Chunk, Float[Tensor, "m hidden"] | None, list[int]]:
    """Where segments of frames end in a chunk, and a summary token before each frame that begins another.

    Source: arXiv 2511.07278 (StreamKV). A segment ends where the mean embeddings of two neighbouring frames
    have a cosine below ``boundary``, and is never shorter than ``least`` frames or longer than ``most``.

    Args:
        open_segment: mean embeddings of the frames of the segment that goes on from the last chunk.
        room: tokens a segment may take; at least one frame.
        summary: id of the first summary, the mean of the segment's embeddings; the next ones are below it.
            None for no summaries.

    Returns:
        the chunk with its summaries, the segment that goes on, and the last id of each one that ended.
    """
    out, ends = chunk, list[int]()
    for slots in frame_slots(chunk):
        frame = chunk.embeds[0, slots].float().mean(0, keepdim=True)
        if open_segment is None:
            open_segment = frame
            continue
        open_segment, length = open_segment.to(frame.device), len(open_segment)
        full = length >= min(most, max(room // len(slots), 1))
        if not full and (length < least or float(cosine(open_segment[-1], frame[0])) >= boundary):
            open_segment = torch.cat((open_segment, frame))
            continue
        number = chunk.tokens.frame[slots[0].cpu()]
        first = int(chunk.tokens.id[chunk.tokens.frame == number].min())
        if summary is not None:
            at = int((out.tokens.id == first).nonzero())
            # Just before the frame that follows, by the stream's clock.
            time = int(out.tokens.table[2, at]) - 1
            mark = {"kind": int(TokenKind.SUMMARY), "protected": 1, "weight": length * len(slots)}
            token = Provenance.of(1, id=summary - len(ends), time_us=time, **mark)
            out = inserted(out, at, open_segment.mean(0), token)
        ends.append(first - 1)
        open_segment = frame
    return out, open_segment, ends


def with_background(piece: Chunk, keep: Bool[Tensor, " n"]) -> Chunk:
    """A frame's tokens that are kept, and one mean of the others in the place of the one nearest to it.

    Source: arXiv 2606.25658 (CausalMem). Every token weighs as many as it stands for.
    """
    gone = (~keep).nonzero().flatten()
    if not len(gone):
        return piece
    table = piece.tokens.table.clone()
    mass = table[7, gone.cpu()].to(piece.embeds.device)
    weights = (mass / mass.sum()).float()
    mean = weights @ piece.embeds[0, gone].float()
    place = gone[nearest(piece.embeds[0, gone].float(), mean)]
    levels = [level.clone() for level in (piece.embeds, *piece.deepstack)]
    for level in levels:
        level[0, place] = (weights @ level[0, gone].float()).to(level.dtype)
    table[7, place.cpu()] = int(mass.sum())
    stay = keep.clone()
    stay[place] = True
    whole = replace(piece, embeds=levels[0], deepstack=tuple(levels[1:]), tokens=Provenance(table))
    return whole.select(stay.nonzero().flatten())
