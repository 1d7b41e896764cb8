"""Writing a chunk into a memory: one forward of the decoder, then the commit."""

from __future__ import annotations

from contextlib import suppress

import torch

from hermes.attention import EnoughSeenError, attending, installed
from hermes.backbone import Backbone, Chunk
from hermes.errors import SettingError
from hermes.memory import KVMemory
from hermes.policy import MemoryPolicy
from hermes.probe import AttentionProbe


@torch.no_grad()
def prefill(
    backbone: Backbone,
    memory: KVMemory,
    chunk: Chunk,
    *,
    probe: AttentionProbe | None = None,
    prefix: bool = False,
) -> None:
    """Run a chunk through the decoder on top of the memory and take its tokens in (this project).

    After an exception, or an interruption, the memory is as it was.

    Args:
        probe: watches the chunk's attention.
        prefix: the chunk is the fixed prefix, never evicted.
    """
    if len(chunk) == 0:
        return
    batch = chunk.embeds.shape[0]
    # [A, n] -> [B, n] for 1-D positions, [3, B, n] for M-RoPE
    positions = (memory.next_position + chunk.positions).to(chunk.embeds.device)
    positions = positions[:, None].expand(-1, batch, -1) if backbone.axes > 1 else positions.expand(batch, -1)
    try:
        with (
            installed(backbone.model),
            suppress(EnoughSeenError),
            attending(memory, probe, chunk.tokens, writes_only=True),
        ):
            backbone.decoder(
                inputs_embeds=chunk.embeds,
                position_ids=positions,
                past_key_values=memory,
                use_cache=True,
                **backbone.prefill_kwargs(chunk),
            )
        memory.commit(chunk.positions, chunk.tokens, chunk.advance, prefix=prefix)
    except BaseException:
        memory.rollback()
        raise


def check_budget(policy: MemoryPolicy, chunk: Chunk) -> None:
    """Refuse a budget that cannot hold one frame (this project); one below a chunk is fine.

    Raises:
        SettingError: the budget is below the tokens of the chunk's first frame.
    """
    frame = chunk.tokens.frame
    cost = int((frame == frame[0]).sum()) if len(frame) else 0
    if policy.bound != "unbounded" and policy.budget < cost:
        raise SettingError("policy.budget", policy.budget, f"at least {cost}, the tokens of one frame")


def check_streams(policy: MemoryPolicy, streams: int) -> None:
    """Refuse a batch of streams for a policy whose streams cannot go in lockstep (this project).

    Raises:
        SettingError: more than one stream, and the policy is not ``lockstep``.
    """
    if streams > 1 and not policy.lockstep:
        raise SettingError(
            "streams", streams, "1 for this policy", f"{type(policy).__name__} keeps streams of their own."
        )
