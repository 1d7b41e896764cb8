"""A loaded model with weights in few bits streams, answers, saves and resumes, and keeps its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, TorchAoConfig

from hermes import open_session
from hermes.backbone import save_checkpoint
from tests.support.families import make_frames, tiny

pytestmark = pytest.mark.model


def _torchao() -> Any:
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(quantization.Int8WeightOnlyConfig())


def _bits(**options: Any) -> Any:
    pytest.importorskip("bitsandbytes")
    # The tiny tower's rows are shorter than a block of four-bit weights.
    return BitsAndBytesConfig(llm_int8_skip_modules=["model.visual", "lm_head"], **options)


@pytest.mark.parametrize(
    "settings",
    [_torchao, lambda: _bits(load_in_8bit=True), lambda: _bits(load_in_4bit=True)],
    ids=["torchao", "8 bits", "4 bits"],
)
def test_weights_in_few_bits(settings: Any, tmp_path: Path) -> None:
    quantization = settings()
    save_checkpoint(tiny("qwen2_5_vl"), tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "model", quantization_config=quantization, device_map="cpu"
    )
    block = model.get_decoder().layers[0].self_attn.q_proj
    kind, weight = type(block), block.weight

    def session() -> Any:
        return open_session(model=model, processor=str(tmp_path / "model"), policy="hermes", budget=40)

    first, frames = session(), make_frames(24)
    first.feed(frames[:16])
    first.flush()
    first.save(tmp_path / "stream")
    again = session()
    if kind.__name__ == "Linear4bit":
        # On a CPU bitsandbytes packs them anew after each look at them, and scales change in their last bits.
        again.feed(frames[:16])
    else:
        again.resume(tmp_path / "stream")
    for one in (first, again):
        one.feed(frames[16:])
    answers = [one.ask("What is happening?", max_new_tokens=4) for one in (first, again)]
    assert len(answers[0].ids) == len(answers[1].ids) == 4
    assert first.memory.lengths == again.memory.lengths
    if kind.__name__ != "Linear4bit":
        assert answers[0].ids.tolist() == answers[1].ids.tolist()
    assert model.get_decoder().layers[0].self_attn.q_proj is block
    assert type(block) is kind
    assert block.weight is weight
    assert not any(torch.isnan(layer.keys).any() for layer in first.memory)
