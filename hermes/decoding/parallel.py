"""Tensor parallelism: each process holds some heads of every layer, and all must keep the same tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from hermes.errors import UnsupportedModelError
from hermes.memory import KVMemory

__all__ = ["check_alike", "over_all_heads", "processes_of"]

# Prime, so that the order of ids counts.
_BASE, _PRIME = 1_000_003, 2**31 - 1


def processes_of(model: Any) -> Any:
    """The processes over which a model's heads are split; None where one process has them all."""
    size = getattr(model, "tp_size", None)
    if not isinstance(size, int) or size < 2:
        return None
    for weight in model.get_decoder().parameters():
        if isinstance(weight, DTensor):
            mesh = weight.device_mesh
            return mesh.get_group() if mesh.ndim == 1 else mesh.get_group("tp")
    return dist.group.WORLD


def over_all_heads(value: Tensor, group: Any, pool: str) -> Tensor:
    """What is pooled over the heads of each process, pooled over all of them."""
    total = value.float().contiguous()
    dist.all_reduce(total, op=dist.ReduceOp.MAX if pool == "max" else dist.ReduceOp.SUM, group=group)
    if pool != "max":
        total /= dist.get_world_size(group)
    return total.to(value.dtype)


def check_alike(memory: KVMemory, group: Any, policy: str) -> None:
    """Refuse a policy by which processes keep different tokens: each looked at its own heads alone.

    Raises:
        UnsupportedModelError: they did.
    """
    sums = []
    for layer in memory.managed:
        ids = layer.origin.id.flatten()
        place = torch.arange(1, len(ids) + 1, device=ids.device) * _BASE % _PRIME
        sums += [torch.tensor(layer.rows), ((ids + 2) * place % _PRIME).sum()]
    mine = torch.stack([part.to(memory.managed[0].keys.device, torch.long) for part in sums])
    most, least = mine.clone(), mine.clone()
    dist.all_reduce(most, op=dist.ReduceOp.MAX, group=group)
    dist.all_reduce(least, op=dist.ReduceOp.MIN, group=group)
    if not torch.equal(most, least):
        raise UnsupportedModelError(
            f"under tensor parallelism the processes keep different tokens: policy {policy} ranks them by "
            "keys, values or attention of single heads, and each process has some heads. Use a policy that "
            "ranks by time or guided attention (recent, fifo, hermes), or device_map in place of tp_plan"
        )
