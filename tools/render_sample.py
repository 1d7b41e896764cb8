"""Render the bundled sample clip and its questions: `python tools/render_sample.py [FOLDER]`.

Everything is drawn here with PIL, frame by frame and without randomness. Six scenes of eight seconds; the
bar at the bottom and the hand of the clock show the time.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hermes.samples import CLIP
from hermes.video import write_video
from hermes.video.source import Pixels

WIDTH, HEIGHT, FPS = 320, 240, 10
SCENE_SECONDS = 8.0
HORIZON = 170
Draw = ImageDraw.ImageDraw
Colour = tuple[int, int, int]

YELLOW, GREEN, WHITE = (250, 215, 40), (40, 170, 70), (245, 245, 245)
ORANGE, PURPLE = (245, 130, 30), (140, 60, 180)

QUESTIONS: list[dict[str, object]] = [
    {
        "question": "Which shape rolls through the red room?",
        "time": 5.0,
        "choices": ["a triangle", "a circle", "a square", "a star"],
        "answer": "a circle",
    },
    {
        "question": "What colour is the square in the blue room?",
        "time": 13.0,
        "choices": ["green", "red", "white", "yellow"],
        "answer": "green",
    },
    {
        "question": "How many white triangles have come into the garden?",
        "time": 23.0,
        "choices": ["one", "two", "three", "four"],
        "answer": "three",
    },
    {"question": "What lies on the street at night?", "time": 30.0, "answer": "an orange circle"},
    {
        "question": "What was in this red room when it was shown the first time?",
        "time": 38.0,
        "choices": ["a purple triangle", "a green square", "three white triangles", "a yellow circle"],
        "answer": "a yellow circle",
    },
    {
        "question": "Which two things meet on the beach?",
        "time": 47.0,
        "answer": "a yellow circle and a green square",
    },
]


def ease(value: float) -> float:
    """0 to 1, slow at both ends."""
    value = min(max(value, 0.0), 1.0)
    return value * value * (3 - 2 * value)


def polygon(draw: Draw, x: float, y: float, size: float, corners: int, angle: float, colour: Colour) -> None:
    """A regular polygon; angle 0 stands on its base."""
    first = angle + math.pi / 2 + math.pi / corners
    turns = [first + 2 * math.pi * i / corners for i in range(corners)]
    points = [(x + size * math.cos(turn), y + size * math.sin(turn)) for turn in turns]
    draw.polygon(points, fill=colour, outline=(20, 20, 20))


def ball(draw: Draw, x: float, y: float, size: float, colour: Colour, turn: float = 0.0) -> None:
    """A circle with one spoke, so that rolling shows."""
    draw.ellipse((x - size, y - size, x + size, y + size), fill=colour, outline=(20, 20, 20))
    draw.line((x, y, x + size * math.cos(turn), y + size * math.sin(turn)), fill=(20, 20, 20), width=2)


def room(draw: Draw, wall: Colour, floor: Colour) -> None:
    draw.rectangle((0, 0, WIDTH, HORIZON), fill=wall)
    draw.rectangle((0, HORIZON, WIDTH, HEIGHT), fill=floor)
    draw.rectangle((30, 80, 75, HORIZON), fill=(120, 80, 40), outline=(20, 20, 20))
    draw.rectangle((130, 40, 190, 90), fill=(190, 225, 245), outline=(20, 20, 20), width=3)
    draw.line((160, 40, 160, 90), fill=(20, 20, 20), width=3)


def red_room(draw: Draw, s: float) -> None:
    room(draw, (200, 60, 55), (110, 75, 50))
    x = -30 + 380 * s / 7
    ball(draw, x, 175, 26, YELLOW, turn=x / 26)


def blue_room(draw: Draw, s: float) -> None:
    room(draw, (60, 95, 190), (150, 150, 155))
    x = 360 - 190 * ease(s / 3) + 190 * ease((s - 6) / 2)
    polygon(draw, x, 168, 34, 4, 0.0, GREEN)


def garden(draw: Draw, s: float) -> None:
    draw.rectangle((0, 0, WIDTH, HORIZON), fill=(150, 210, 245))
    draw.rectangle((0, HORIZON, WIDTH, HEIGHT), fill=(90, 160, 60))
    draw.rectangle((38, 100, 52, HORIZON), fill=(110, 75, 40))
    draw.ellipse((15, 50, 75, 115), fill=(45, 120, 50))
    for i in range(3):
        x = 350 - (230 - 80 * i) * ease((s - 2 * i) / 2)
        polygon(draw, x, 172 - 6 * abs(math.sin(3 * s + i)), 26, 3, 0.0, WHITE)


def night_street(draw: Draw, s: float) -> None:
    draw.rectangle((0, 0, WIDTH, HORIZON), fill=(15, 18, 45))
    draw.rectangle((0, HORIZON, WIDTH, HEIGHT), fill=(60, 60, 65))
    draw.ellipse((30, 20, 62, 52), fill=(240, 240, 215))
    for i, top in enumerate((90, 70, 105)):
        left = 20 + 105 * i
        draw.rectangle((left, top, left + 80, HORIZON), fill=(45, 40, 60))
        for column in range(2):
            x = left + 14 + 34 * column
            draw.rectangle((x, top + 15, x + 18, top + 35), fill=(245, 225, 120))
    fall = min(s / 2, 1.0)
    ball(draw, 180, -30 + 215 * fall * fall, 24, ORANGE, turn=math.pi / 4)


def red_room_again(draw: Draw, s: float) -> None:
    room(draw, (200, 60, 55), (110, 75, 50))
    polygon(draw, 220, 130 + 15 * math.sin(2 * s), 32, 3, 1.2 * s, PURPLE)


def beach(draw: Draw, s: float) -> None:
    draw.rectangle((0, 0, WIDTH, 90), fill=(170, 220, 250))
    draw.rectangle((0, 90, WIDTH, 145), fill=(30, 120, 180))
    for i in range(8):
        x = (i * 45 + 20 * s) % 360 - 40
        draw.arc((x, 105, x + 40, 121), 200, 340, fill=WHITE, width=2)
    draw.rectangle((0, 145, WIDTH, HEIGHT), fill=(230, 205, 140))
    x = -30 + 162 * ease(s / 5)
    ball(draw, x, 180, 26, YELLOW, turn=x / 26)
    polygon(draw, 350 - 165 * ease(s / 5), 178, 34, 4, 0.0, GREEN)


SCENES: list[Callable[[Draw, float], None]] = [
    red_room,
    blue_room,
    garden,
    night_street,
    red_room_again,
    beach,
]
SECONDS = SCENE_SECONDS * len(SCENES)


def draw_frame(time: float) -> Pixels:
    """The picture at a time in seconds, uint8 ``[240, 320, 3]``."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    scene = int(time // SCENE_SECONDS)
    SCENES[scene](draw, time - scene * SCENE_SECONDS)
    # A clock whose hand takes a minute, and the bar.
    x, y, size = WIDTH - 32, 30, 22
    draw.ellipse((x - size, y - size, x + size, y + size), fill=WHITE, outline=(20, 20, 20), width=2)
    turn = 2 * math.pi * time / 60 - math.pi / 2
    draw.line((x, y, x + 17 * math.cos(turn), y + 17 * math.sin(turn)), fill=(20, 20, 20), width=3)
    draw.rectangle((0, HEIGHT - 14, WIDTH, HEIGHT), fill=(20, 20, 20))
    draw.rectangle((2, HEIGHT - 12, 2 + round((WIDTH - 5) * time / SECONDS), HEIGHT - 3), fill=WHITE)
    return np.asarray(image, np.uint8)


def frames() -> Iterator[Pixels]:
    for i in range(round(SECONDS * FPS)):
        yield draw_frame(i / FPS)


def render(folder: Path) -> None:
    """Write `clip.mp4` and `questions.jsonl` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "clip.mp4", frames(), FPS, crf=23)
    lines = [json.dumps(question, ensure_ascii=False) + "\n" for question in QUESTIONS]
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    render(Path(sys.argv[1]) if len(sys.argv) > 1 else CLIP.parent)
