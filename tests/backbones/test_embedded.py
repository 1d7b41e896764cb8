"""The model that comes with Hermes: a directory for plain transformers, small, with a true card."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hermes.backbones.embedded import FOLDER
from hermes.data.wanderer import KINDS
from tests.support.command_line import process

# In a process of its own, which must not import Hermes to answer.
PLAIN = """
import sys, json, torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
folder, path = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
asked = torch.load(path)
right = 0
for pixels, text, answer in asked:
    system = [{"type": "text", "text": "You are a helpful assistant."}]
    turn = [{"type": "video"}, {"type": "text", "text": text}]
    messages = [{"role": "system", "content": system}, {"role": "user", "content": turn}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # Four tokens a frame, and the newline of the native layout.
    prompt = prompt.replace("<video>", "<video>" * (4 * len(pixels) + 1))
    inputs = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**inputs, pixel_values_videos=pixels[None], max_new_tokens=4, do_sample=False)
    said = tokenizer.decode(out[0, inputs.input_ids.shape[1] :], skip_special_tokens=True).strip()
    right += said == answer
assert not any(name.partition(".")[0] in ("hermes", "backbones", "policies") for name in sys.modules)
print(json.dumps([type(model).__name__, right, len(asked)]))
"""


@pytest.mark.model
def test_plain_transformers_answers(tmp_path):
    import numpy as np
    import torch

    from hermes.data.wanderer import Wanderer

    kinds = ["now_place", "past_shape", "object_place", "visited", "first_place"]
    bench = Wanderer(streams=6, kinds=kinds, questions=5, seed=4)
    asked = []
    for walk in map(bench.__getitem__, range(6)):
        images = np.stack([frame.image for frame in walk.frames()])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        asked += [(pixels[: q.time].clone(), q.text, q.answer) for q in walk.questions]
    torch.save(asked, tmp_path / "asked.pt")
    command = [sys.executable, "-c", PLAIN, str(FOLDER), str(tmp_path / "asked.pt")]
    done = process(*command, cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    name, right, n = json.loads(done.stdout.splitlines()[-1])
    assert name == "LlavaOnevisionForConditionalGeneration"
    assert n >= 25
    assert right >= 0.9 * n


def test_the_directory_is_small_and_whole():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10_000_000
    config = json.loads((FOLDER / "config.json").read_text())
    text = config["text_config"]
    assert config["architectures"] == ["LlavaOnevisionForConditionalGeneration"]
    assert text["num_hidden_layers"] >= 10
    assert text["num_key_value_heads"] < text["num_attention_heads"]
    files = {"processor_config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    assert files | {"chat_template.jinja", "README.md", "accuracy.json"} <= {p.name for p in FOLDER.iterdir()}


def test_the_card_tells_the_recorded_accuracies():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = json.loads((FOLDER / "accuracy.json").read_text())
    columns = ["32 s, open", "32 s, choice", "64 s, open", "64 s, choice"]
    assert list(found) == columns
    for name, kind in KINDS.items():
        scores = [found[c]["by_kind"][name + " (choice)" * c.endswith("choice")] for c in columns]
        assert all(score["n"] >= 300 for score in scores)
        cells = " | ".join(f"{100 * score['right'] / score['n']:.1f} ({score['n']})" for score in scores)
        assert f"| {kind.category}: {name} | {cells} | {100 * kind.chance:.0f} |" in card


def test_the_model_is_the_default_of_every_command():
    from hermes.evaluation import eval_config
    from hermes.session.config import run_config

    assert run_config().backbone.family == eval_config().backbone.family == "embedded"
    command = [sys.executable, "-m", "hermes", "validate"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "family: embedded" in done.stdout
