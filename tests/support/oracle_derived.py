"""Cases with questions in the middle of the stream, made of recorded ones that have them at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from hermes.backbone import Backbone
from hermes.tokens import expand_axes
from tests.support.oracle_cases import Case


def mid_stream(source: Path, folder: Path, backbones: Mapping[str, Backbone]) -> Case:
    """A case with the chunks of ``source`` and its first question after most of them.

    A question leaves nothing in the memory, and the token ids of the guidance prompts are inputs, so what was
    recorded of the chunks holds as it is. The answers are the plain decoder's over the recorded memory. The
    model is the one with few positions; chunks from where it would compact them on are left out.
    """
    case = Case(source, backbones)
    meta, limit = case.meta, 1224 - 1024
    count = next(
        (step for step, record in enumerate(case.steps) if record["max_pos_before_compress"] > limit),
        len(case.steps),
    )
    asked = [0, 1, 1, *range(2, count)]
    prompt = case.data["q00.prompt_ids"]
    data = {key: array for key, array in case.data.items() if not key.startswith("q")}
    questions: list[dict[str, Any]] = []
    for index, step in enumerate(asked):
        # Not all the same, or an older round could be taken for the last.
        ids = np.concatenate((prompt, prompt[: index + 1]))
        logits, answer = plain_answer(case, step, torch.from_numpy(ids).long())
        start = np.asarray(case.steps[step]["next_start_per_layer"])
        named = {"prompt_ids": ids, "start": start, "logits": logits.numpy(), "answer_ids": np.array(answer)}
        data |= {f"q{index:02d}.{name}": array for name, array in named.items()}
        text = case.backbone.decode(torch.tensor(answer))
        questions.append({"index": index, "after_chunk": step, "mc": False, "answer_text": text})
    meta |= {
        "model": f"{meta['model']}_mpe1224",
        "max_position_embeddings": 1224,
        "steps": case.steps[:count],
        # Listed in another order than asked.
        "questions": questions[::-1],
    }
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps(meta))
    np.savez(folder / "data.npz", **data)
    return Case(folder, backbones)


@torch.no_grad()
def plain_answer(case: Case, step: int, ids: Tensor) -> tuple[Tensor, list[int]]:
    """Raw logits ``[n, vocab]`` and tokens of a greedy answer over the memory recorded after a chunk.

    The layers are called one by one, each at its own positions, with transformers' cache and attention.
    """
    backbone, meta = case.backbone, case.meta
    decoder: Any = backbone.decoder
    starts = case.steps[step]["next_start_per_layer"]
    if not meta["per_layer_positions_drive_rope"]:
        starts = [starts[0]] * len(starts)
    cache = DynamicCache(config=backbone.text_config)
    keys, values = (case.tensor(f"c{step:02d}.{name}_after") for name in "KV")
    for index in range(len(starts)):
        cache.update(keys[index][None], values[index][None], index)

    def forward(ids: Tensor, written: int) -> Tensor:
        n, held = len(ids), cache.get_seq_length()
        future = torch.ones(n, held + n, dtype=torch.bool).triu(held + 1)
        mask = torch.zeros(1, 1, n, held + n).masked_fill(future, float("-inf"))
        hidden = backbone.embed(ids[None])
        for index, block in enumerate(decoder.layers):
            positions = (starts[index] + written + torch.arange(n)).float()[None]
            if backbone.axes > 1:
                positions = expand_axes(positions, backbone.axes)
            hidden = block(
                hidden,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=decoder.rotary_emb(hidden, positions),
            )
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        logits: Tensor = backbone.model.lm_head(decoder.norm(hidden[:, -1]))[0]
        return logits

    rows, answer = [forward(ids, 0)], list[int]()
    while True:
        scores, penalty = rows[-1].clone(), meta["repetition_penalty"]
        for token in set(answer):
            scores[token] *= penalty if scores[token] < 0 else 1 / penalty
        answer.append(int(scores.argmax()))
        if answer[-1] == meta["eos_token_id"] or len(answer) == meta["max_new_tokens"]:
            return torch.stack(rows), answer
        rows.append(forward(torch.tensor(answer[-1:]), len(ids) + len(answer) - 1))
