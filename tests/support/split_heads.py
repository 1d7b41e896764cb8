"""Run by two processes at once: a stream over a model whose heads are split, against one that is whole."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

import torch
import torch.distributed as dist
import transformers

from hermes.errors import UnsupportedModelError
from hermes.session.opening import open_session
from hermes.session.session import StreamSession
from tests.support.families import QUESTION, make_frames


def streamed(model: Any, folder: str, policy: str) -> tuple[StreamSession, list[int]]:
    overrides = ["stream.chunk_frames=2", "generation.max_new_tokens=6"]
    budget = None if policy == "full" else 24
    session = open_session(model=model, processor=folder, policy=policy, budget=budget, overrides=overrides)
    session.feed(make_frames(12) if session.backbone.sees else [f"It is {n} o'clock." for n in range(12)])
    return session, session.ask(QUESTION).ids.tolist()


def main(folder: str, kind: str, *policies: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    load = getattr(transformers, kind).from_pretrained
    whole, split = load(folder), load(folder, tp_plan="auto")
    found: dict[str, str] = {}
    for policy in policies:
        expected, answer = streamed(whole, folder, policy)
        try:
            session, ids = streamed(split, folder, policy)
        except UnsupportedModelError as error:
            found[policy] = str(error)
            continue
        assert ids == answer, (policy, ids, answer)
        for ours, theirs in zip(session.memory, expected.memory, strict=True):
            heads, every = ours.keys.shape[1], theirs.keys.shape[1]
            # Some families split the feed-forward alone.
            assert heads == (every if "qwen3_vl" in whole.config.model_type else every // 2)
            own = slice(rank * heads, (rank + 1) * heads) if heads < every else slice(None)
            assert torch.equal(ours.origin.table, theirs.origin.table), policy
            torch.testing.assert_close(ours.keys, theirs.keys[:, own], atol=1e-3, rtol=1e-3)
            torch.testing.assert_close(ours.values, theirs.values[:, own], atol=1e-3, rtol=1e-3)
        try:
            session.save(tempfile.mkdtemp())
        except UnsupportedModelError as error:
            found[policy] = f"equal; {error}"
    if rank == 0:
        sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    dist.barrier()
    # Whoever takes its threads down while the other still listens may abort: leave without that.
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
