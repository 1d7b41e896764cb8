"""The model card: how the embedded model was trained, and how well it answers on the test split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hermes.backbone import load_backbone
from hermes.config import resolved_yaml
from hermes.data.wanderer.questions import KINDS
from hermes.evaluation.running.run import evaluate
from hermes.evaluation.running.settings import eval_config
from hermes.evaluation.scoring.summary import Score, Summary
from hermes.files import write_text_whole
from hermes.pages.markdown import table
from hermes.training.settings import Schedule, TrainConfig
from hermes.version import __version__

__all__ = ["measure", "write_card"]


def measure(model: Path, length: int, streams: int, *, choices: bool, folder: Path) -> Summary:
    """Accuracy on the test split with the full cache, from frames as they are drawn.

    Args:
        model: its directory.
        length: seconds of a stream.
        streams: how many, with one question of each kind where there is one to ask.
        choices: multiple choice, or open questions.
        folder: of the rows, so that a run that was stopped goes on.
    """
    config = eval_config(
        [
            f"backbone={model}",
            "backbone.fps=1",
            "policy=full",
            "generation.max_new_tokens=4",
            f"data.streams={streams}",
            f"data.choices={float(choices)}",
            f"data.world.length={length}",
        ]
    )
    return evaluate(config, folder)


def write_card(folder: Path, config: TrainConfig, seconds: float, rows: Path) -> None:
    """Measure the model in ``folder`` and write its ``README.md`` and ``accuracy.json``.

    Args:
        folder: the model's directory.
        config: how it was trained.
        seconds: that its decoder's stages took.
        rows: folder of the answers.
    """
    model = load_backbone({"checkpoint": str(folder), "family": "llava_onevision", "fps": 1.0}).model
    columns = [(length, choices) for length in config.test_lengths for choices in (False, True)]
    found = {}
    for length, choices in columns:
        name = f"{length} s, {'choice' if choices else 'open'}"
        at = rows / name.replace(", ", "-").replace(" ", "")
        found[name] = measure(folder, length, config.test_streams, choices=choices, folder=at)
    raw: dict[str, Any] = {name: summary.record() for name, summary in found.items()}
    write_text_whole(folder / "accuracy.json", json.dumps(raw, indent=1) + "\n")
    lines = [
        [
            f"{kind.category}: {name}",
            *(_cell(summary, name) for summary in found.values()),
            f"{100 * kind.chance:.0f}",
        ]
        for name, kind in KINDS.items()
    ]
    schedule = Schedule(config)
    text = _CARD.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        layers=config.model.layers,
        heads=config.model.heads,
        kv_heads=config.model.kv_heads,
        table=table(["kind", *found, "chance, open"], lines, rule="|---"),
        version=__version__,
        seed=config.seed,
        steps=schedule.steps,
        vision=config.vision.steps,
        minutes=seconds / 60,
        settings=resolved_yaml(config),
    )
    write_text_whole(folder / "README.md", text)


def _cell(summary: Summary, kind: str) -> str:
    score = summary.by_kind.get(kind) or summary.by_kind.get(f"{kind} (choice)") or Score(0, 0, None)
    return f"{100 * score.accuracy:.1f} ({score.n})"


_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
tags: [video, streaming, synthetic]
---
# The embedded model of Hermes

A LLaVA-OneVision of {parameters:.2f} M parameters ({megabytes:.1f} MB in bfloat16; {layers} decoder layers,
{heads} query and {kv_heads} key-value heads, 4 tokens a frame), trained from scratch on *Wanderer*, a world
of named places and objects drawn at one frame a second. It answers one-word questions about such streams and
nothing else: it is there so that memory policies can be tried, tested and compared without a download.

## Use

With Hermes: `backbone=embedded`. With transformers alone (its video processor needs torchvision):

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder)
turn = [{{"type": "video"}}, {{"type": "text", "text": "Where are we now?"}}]
system = [{{"type": "text", "text": "You are a helpful assistant."}}]
messages = [{{"role": "system", "content": system}}, {{"role": "user", "content": turn}}]
text = processor.apply_chat_template(messages, add_generation_prompt=True)
inputs = processor(text=text, videos=[frames], return_tensors="pt")  # frames: uint8 [T, 32, 32, 3]
answer = processor.decode(model.generate(**inputs, max_new_tokens=4)[0, inputs.input_ids.shape[1]:])
```

## Accuracy

Test split: seeds and pairs of place and object that training never met. Full cache, greedy generation through
a Hermes session, in per cent (number of questions). Open answers must match word for word.

{table}

## Training

Hermes {version}, `hermes train training.seed={seed}`: {vision} steps of vision, then {steps} steps of the
decoder in {minutes:.0f} minutes.

```yaml
{settings}```
"""
