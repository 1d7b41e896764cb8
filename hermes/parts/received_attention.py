"""Scorers that follow the attention of every chunk as the decoder reads it, and what they remember of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hermes.attention import AttentionProbe, AttentionView, Observer
from hermes.config import setting
from hermes.memory import KVLayer, LayerUpdate
from hermes.parts.scorers import LayerContext, Scorer
from hermes.tokens import Provenance


@dataclass
class WindowAttention(Scorer):
    """Attention of the last tokens of the newest chunk, pooled along the cache.

    Source: arXiv 2404.14469 (SnapKV), Sec. 4, and 2401.06104 (TOVA) with ``window=1 kernel=1``. The window
    is of the newest frame's tokens: at the end of a prompt it would be the question's, which a stream does
    not know yet. It is never longer than that frame, and its own tokens score highest.
    """

    window: int = setting(
        32, help="last tokens of the newest frame whose queries are read", unit="tokens", ge=1
    )
    kernel: int = setting(5, help="tokens pooled around each; 1: none", unit="tokens", ge=1)
    pool: Literal["mean", "max"] = setting("mean", help="how they are pooled; the ends count as 0 in a mean")

    @property
    def follows(self) -> bool:
        """The scorer follows the attention of every chunk."""
        return True

    def follow(
        self, view: AttentionView, before: Float[Tensor, "B _R T"], per_head: bool
    ) -> Float[Tensor, "B R T_P"]:
        """The newest window's attention, whatever was before."""
        window = self.window if view.chunk is None else self._window(view.chunk)
        return view.received(last=window, per_head=per_head)

    def _window(self, tokens: Provenance) -> int:
        """Tokens at the end that are of the newest frame, ``window`` at most; all rows end alike."""
        frame = tokens.frame.flatten(0, -2)[0] if tokens.frame.ndim > 1 else tokens.frame
        return int((frame[-self.window :] == frame[-1:]).sum())

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """Pooled attention; the window above everything."""
        mass = context.followed
        old = mass[..., : mass.shape[-1] - self._window(context.layer.video)]
        if self.kernel > 1 and old.shape[-1]:
            pool = F.avg_pool1d if self.pool == "mean" else F.max_pool1d
            size = old.shape[-1]
            old = pool(old, self.kernel, stride=1, padding=self.kernel // 2)[..., :size]
        window = torch.full_like(mass[..., old.shape[-1] :], 2.0)
        return torch.cat((old, window), dim=-1)


@dataclass
class AttentionSum(Scorer):
    """All attention a token has received since it was written, from every query.

    Source: arXiv 2306.14048 (H2O), Alg. 1. Summed over queries, mean over heads. The plain sum favours old
    tokens, which more queries have seen: ``per_query`` divides by their number.
    """

    per_query: bool = setting(False, help="divide by the number of queries that could see the token")

    @property
    def follows(self) -> bool:
        """The scorer follows the attention of every chunk."""
        return True

    def follow(
        self, view: AttentionView, before: Float[Tensor, "B _R T"], per_head: bool
    ) -> Float[Tensor, "B R T_P"]:
        """Add what the chunk's queries gave each token to the sums so far."""
        fresh = view.received(per_head=per_head) * view.query.shape[2]
        fresh[..., : before.shape[-1]] += before
        return fresh

    def score(self, context: LayerContext) -> Float[Tensor, "B R V"]:
        """The sums, or their mean over the queries that could see the token."""
        if not self.per_query:
            return context.followed
        ids = context.layer.video.id
        # Ids count up by one along the stream; a summary's is negative, and it counts as the oldest.
        queries = ids.amax(dim=-1, keepdim=True) + 1 - ids.clamp(min=0)
        return context.followed / queries


class AttentionLedger(AttentionProbe):
    """What the scorers of a policy follow, a number per held token and layer, carried through evictions.

    Args:
        scorers: by layer, those that follow.
        per_head: whether tokens are ranked per KV head.
    """

    def __init__(self, scorers: Mapping[int, Scorer], per_head: bool) -> None:
        self.scorers = scorers
        self.per_head = per_head
        self.held: dict[int, Tensor] = {}
        # Seen, and in the memory once the chunk is committed.
        self._seen: dict[int, Tensor] = {}
        found = {index: scorer.second_reading for index, scorer in scorers.items()}
        self.second = {index: how for index, how in found.items() if how is not None}

    def limit(self, layers: Sequence[int]) -> None:
        """Follow these layers alone; of the others nothing is known."""
        self.scorers = {index: scorer for index, scorer in self.scorers.items() if index in layers}
        self.second = {index: how for index, how in self.second.items() if index in layers}

    def layers(self, num_layers: int) -> Iterable[int]:
        """The layers whose scorer follows attention as a chunk is read the first time."""
        return self.scorers.keys() - self.second.keys()

    @property
    def watches(self) -> bool:
        """Whether any scorer follows the first reading."""
        return len(self.second) < len(self.scorers)

    def read_again(self, observe: Observer, *, evicting: bool) -> None:
        """Let scorers see the second reading of the newest chunk, each as it wants it.

        Args:
            evicting: tokens are about to be evicted.
        """
        for how in dict.fromkeys(self.second.values()):
            if how.always or evicting:
                observe.read_again(how, _Second(self, [at for at, own in self.second.items() if own == how]))

    def observe(self, view: AttentionView) -> None:
        """Show the layer's attention to its scorer."""
        self._seen[view.index] = self.followed(view)

    def followed(self, view: AttentionView) -> Float[Tensor, "B R T"]:
        """What the layer's scorer makes of what it knew and now sees."""
        per_head = self.per_head or view.layer.rows > 1
        return self.scorers[view.index].follow(view, self.known(view.layer), per_head)

    def known(self, layer: KVLayer) -> Float[Tensor, "B R T"]:
        """What the layer's scorer knows of each token; zeros where it knows nothing."""
        seen = self._seen.pop(layer.index, None)
        # Of a chunk that failed the tokens never came, and the lengths differ.
        if seen is not None and seen.shape[-1] == layer.length:
            self.held[layer.index] = seen
        held = self.held.get(layer.index)
        if held is not None and layer.index in self.second:
            # Of tokens that were not read again nothing is known.
            held = F.pad(held, (0, max(layer.length - held.shape[-1], 0)))
        if held is None or held.shape[-1] != layer.length:
            batch = layer.keys.shape[0] if layer.length else 1
            held = torch.zeros(batch, 1, layer.length, device=layer.clock.device)
        return held

    def of(self, layer: KVLayer) -> Float[Tensor, "B R V"]:
        """What the layer's scorer knows of each video token."""
        self.held[layer.index] = self.known(layer)
        return self.held[layer.index][..., layer.prefix :]

    def evict(self, layer: KVLayer, update: LayerUpdate) -> None:
        """Follow an update; a mixed token gets the sum of what it is mixed of."""
        if layer.index not in self.scorers:
            return
        held = self.known(layer)
        rows = max(held.shape[1], update.keep.shape[1])
        held = held.expand(-1, rows, -1)
        keep = update.keep.expand(held.shape[0], rows, -1)
        kept, mix = held.gather(-1, keep), update.mix
        if mix is not None:
            members = mix.members.expand(held.shape[0], rows, -1)
            group = torch.zeros_like(members) if mix.groups is None else mix.groups.expand_as(members)
            blank = held.new_zeros(held.shape[0], rows, mix.size)
            mixed = blank.scatter_add(-1, group, held.gather(-1, members))
            if mix.targets is None:
                kept = torch.cat((kept, mixed), dim=-1)
            else:
                targets = mix.targets.expand(held.shape[0], rows, -1).contiguous()
                kept = kept.scatter(-1, torch.searchsorted(keep.contiguous(), targets), mixed)
        self.held[layer.index] = kept

    def state(self) -> dict[str, Tensor]:
        """By layer index, as text, for a saved stream; after the layers' evictions."""
        return {str(index): tensor for index, tensor in {**self.held, **self._seen}.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold what :meth:`state` gave.

        Raises:
            ValueError: tensors that are no such sums.
        """
        held = {int(index): tensor for index, tensor in state.items() if index.isdigit()}
        for index, tensor in held.items():
            if tensor.ndim != 3 or not tensor.is_floating_point():
                raise ValueError(f"sums of layer {index}: {tensor.dtype} of shape {list(tensor.shape)}")
        self.held = held
        self._seen = {}


class _Second(AttentionProbe):
    """Shows some layers of a second reading to their scorers."""

    def __init__(self, ledger: AttentionLedger, only: Iterable[int]) -> None:
        self.ledger = ledger
        self.only = only

    def layers(self, num_layers: int) -> Iterable[int]:
        return self.only

    def observe(self, view: AttentionView) -> None:
        self.ledger.held[view.index] = self.ledger.followed(view)
