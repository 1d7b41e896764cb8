"""The model card: how the embedded model was trained, and how well it answers on the test split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hermes import __version__
from hermes.backbone import Backbone
from hermes.config import resolved_yaml
from hermes.data.wanderer import KINDS, Wanderer, WorldConfig
from hermes.loading import load_backbone
from hermes.run import open_session
from hermes.training.settings import Schedule, TrainConfig

__all__ = ["Score", "measure", "write_card"]


class Score(NamedTuple):
    """Right answers among ``total``."""

    right: int = 0
    total: int = 0

    @property
    def percent(self) -> float:
        """Accuracy in per cent."""
        return 100 * self.right / max(self.total, 1)


def measure(
    backbone: Backbone, length: int, streams: int, *, choices: float, policy: str = "full", seed: int = 0
) -> dict[str, Score]:
    """Accuracy by kind on the test split, by generation in a session over frames as they were drawn.

    Source: this project.

    Args:
        backbone: the model.
        length: seconds of a stream.
        streams: how many, with one question of each kind where there is one to ask.
        choices: share of multiple-choice questions.
        policy: of the memory.
        seed: of the series of streams.
    """
    bench = Wanderer(
        streams=streams, questions=len(KINDS), choices=choices, seed=seed, world=WorldConfig(length=length)
    )
    scores = dict.fromkeys(KINDS, Score())
    session = open_session(backbone, policy, overrides=["generation.max_new_tokens=4"])
    with session:
        for i in range(streams):
            session.reset()
            walk = bench[i]
            asked = iter(walk.questions)
            for _ in session.watch(walk.frames(), [q.time for q in walk.questions]):
                question = next(asked)
                answer = session.ask(question.text, question.options, correct=question.answer)
                right, total = scores[question.kind]
                scores[question.kind] = Score(right + bool(answer.correct), total + 1)
    return scores


def write_card(folder: Path, config: TrainConfig, seconds: float, record: Sequence[str] = ()) -> None:
    """Measure the model in ``folder`` and write its ``README.md`` and ``accuracy.json``.

    Args:
        folder: the model's directory.
        config: how it was trained.
        seconds: that its decoder's stages took.
        record: more lines on how it came about.
    """
    backbone = load_backbone({"checkpoint": str(folder), "family": "llava_onevision", "fps": 1.0})
    columns = [(length, choices) for length in config.test_lengths for choices in (0.0, 1.0)]
    found = {key: measure(backbone, key[0], config.test_streams, choices=key[1]) for key in columns}
    raw = [
        {"kind": name, "length_s": length, "choices": bool(choices), **score._asdict()}
        for (length, choices), scores in found.items()
        for name, score in scores.items()
    ]
    (folder / "accuracy.json").write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    heads = [f"{length} s, {'choice' if choices else 'open'}" for length, choices in columns]
    table = [
        "| kind | " + " | ".join(heads) + " | chance, open |",
        "|---" * (len(heads) + 2) + "|",
        *(
            f"| {kind.category}: {name} | {' | '.join(_cell(found[key][name]) for key in columns)} "
            f"| {100 * kind.chance:.0f} |"
            for name, kind in KINDS.items()
        ),
    ]
    schedule = Schedule(config)
    text = _CARD.format(
        parameters=sum(p.numel() for p in backbone.model.parameters()) / 1e6,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        layers=config.model.layers,
        heads=config.model.heads,
        kv_heads=config.model.kv_heads,
        table="\n".join(table),
        version=__version__,
        seed=config.seed,
        steps=schedule.steps,
        vision=config.vision.steps,
        minutes=seconds / 60,
        record="\n".join(record),
        settings=resolved_yaml(config),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _cell(score: Score) -> str:
    return f"{score.percent:.1f} ({score.total})"


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
decoder in {minutes:.0f} minutes. {record}

```yaml
{settings}```
"""
