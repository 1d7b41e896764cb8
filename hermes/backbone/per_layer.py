"""What Gemma's decoders add in every layer for each token, found from embeddings."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["per_layer_inputs"]

# Channels by which embeddings are looked up, and how many are looked up at once.
_CHANNELS, _AT_ONCE = 16, 8


def per_layer_inputs(
    decoder: Any, embeds: Float[Tensor, "B n hidden"], pictures: Bool[Tensor, "*streams n"] | None = None
) -> Tensor | None:
    """Embeddings per layer of tokens given as embeddings, ``[B, n, layers, width]``; None if it has none.

    As in the model itself, whatever is no token of the vocabulary, such as a picture's, counts as padding.

    Args:
        pictures: tokens that are of pictures, and need not be looked up.
    """
    if not getattr(decoder, "hidden_size_per_layer_input", 0):
        return None
    padding = decoder.config.pad_token_id or 0
    rows = embeds.flatten(0, 1)
    ids = torch.full((len(rows),), padding, device=rows.device)
    texts = torch.ones_like(ids, dtype=torch.bool)
    if pictures is not None:
        texts = ~pictures.to(rows.device).expand(embeds.shape[:2]).flatten()
    if texts.any():
        parts = rows[texts].split(_AT_ONCE)
        ids[texts] = torch.cat([_ids(decoder.embed_tokens, part, padding) for part in parts])
    found: Tensor = decoder.get_per_layer_inputs(ids.view(embeds.shape[:2]), None)
    return found


def _ids(table: Any, rows: Float[Tensor, "n hidden"], padding: int) -> Int[Tensor, " n"]:
    scale = torch.as_tensor(getattr(table, "embed_scale", 1.0)).to(table.weight)
    alike = (rows[:, None, :_CHANNELS] == table.weight[:, :_CHANNELS] * scale).all(-1)
    ids = torch.full((len(rows),), padding, device=rows.device)
    for row, token in alike.nonzero().tolist():
        if torch.equal(rows[row], table.weight[token] * scale):
            ids[row] = token
    return ids
