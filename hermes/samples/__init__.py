"""A short clip and questions about it, rendered by `tools/render_sample.py`.

`QUESTIONS` holds one JSON object a line: `question`, `time` (seconds), `answer`, and `choices` where it is
multiple choice; the answer is then one of them, word for word.
"""

from pathlib import Path

CLIP = Path(__file__).parent / "clip.mp4"
QUESTIONS = Path(__file__).parent / "questions.jsonl"
