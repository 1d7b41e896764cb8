"""Captions from files: SRT and JSONL as anybody may have written them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hermes import open_source
from hermes.errors import InputError
from hermes.video import Caption

SRT = """1
00:00:01,500 --> 00:00:03,000
<i>It rains.</i>
A person waits.

2
00:01:00.25 --> 00:01:02.250 X1:40 X2:600
{\\an8}The bus comes.

3
00:02:00,000 --> 00:02:01,000

4
01:00:00,000 --> 01:00:01,000
42
"""


def read(path: Path, **options) -> list[tuple[float, int, str]]:
    with open_source(str(path), **options) as source:
        found = list(source)
    assert all(isinstance(one, Caption) for one in found)
    return [(one.time, one.index, one.text) for one in found]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_srt_file(tmp_path, mark, end):
    path = tmp_path / "film.SRT"
    path.write_bytes((mark + SRT.replace("\n", end)).encode())
    assert read(path) == [
        (1.5, 0, "It rains.\nA person waits."),
        (60.25, 1, "The bus comes."),
        (3600.0, 2, "42"),
    ]
    with open_source(path) as source:
        assert source.duration == 3601.0
    assert read(path, start=2, end=3600) == [(60.25, 0, "The bus comes.")]


def test_a_text_with_empty_lines_and_no_numbers(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text(
        "00:00:01,000 --> 00:00:02,000\none\n\ntwo --> three\n\n00:00:05,000 --> 00:00:06,000\n7 of 8"
    )
    assert read(path) == [(1.0, 0, "one\n\ntwo --> three"), (5.0, 1, "7 of 8")]


def test_a_jsonl_file(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        {"time": 0, "text": "one"},
        {"time": 2.5, "text": "two", "end": 9},
        {"time": 2.5, "text": "three", "end": None},
        {"time": 4, "text": "é"},
    ]
    path.write_text("\ufeff" + "\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    assert read(path) == [(0.0, 0, "one"), (2.5, 1, "two\nthree"), (4.0, 2, "é")]
    with open_source(path, fps=2) as source:
        assert source.duration == 9
    with open_source(path, start=3, fps=2) as source:
        assert source.duration == 9
        assert [one.text for one in source] == ["é"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "a list; needed: a JSON object"),
        ('{"time": 2}', "the field 'text' is missing"),
        ('{"text": "a"}', "the field 'time' is missing"),
        ('{"time": 2, "texts": "a", "text": "a"}', "no field 'texts'.*Did you mean 'text'"),
        ('{"time": "2", "text": "a"}', 'time is "2"; needed: a number from 0'),
        ('{"time": true, "text": "a"}', "time is true; needed: a number"),
        ('{"time": -1, "text": "a"}', "time is -1; needed"),
        ('{"time": NaN, "text": "a"}', "time is NaN; needed"),
        ('{"time": 1e300, "text": "a"}', "time is 1e.300; needed"),
        ('{"time": 2, "text": 3}', "text is 3; needed: text"),
        ('{"time": 2, "text": " "}', 'the text is " "; needed: some words'),
        ('{"time": 2, "text": "\\ud800"}', "half a character"),
        ('{"time": 2, "text": "a", "end": 1.5}', "it ends at 1.5 s, before its time, 2 s"),
        ('{"time": 2, "text": "a", "end": "x"}', 'end is "x"; needed'),
        ('{"time": 0.5, "text": "a"}', "its time, 0.5 s, is before that of the caption before, 1 s"),
        (json.dumps({"time": 2, "text": "a" * 100_001}), "100001 characters"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line, said):
    path = tmp_path / "a.jsonl"
    path.write_text('{"time": 1, "text": "one"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=rf"a\.jsonl, line 3: .*{said}"):
        open_source(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("WEBVTT\n\n00:01.000 --> 00:02.000\na", 'line 1: "WEBVTT"; needed: the number or the time'),
        ("1\n00:00:01 --> 00:00:02\na", "line 2: .*; needed: 00:00:12,500 --> "),
        ("1\n00:00:61,000 --> 00:00:62,000\na", "line 2: .*; needed: 00:00:12,500 --> "),
        ("1\n00:00:05,000 --> 00:00:04,000\na", "line 2: it ends at 4 s, before its time"),
        (
            "1\n00:00:05,000 --> 00:00:06,000\na\n\n2\n00:00:04,000 --> 00:00:06,000\nb",
            "line 6: its time, 4 s, is before",
        ),
        ("\n\n", "there is no caption in it"),
        ("1\n00:00:01,000 --> 00:00:02,000\n\n", "there is no caption in it"),
    ],
)
def test_an_srt_file_that_is_none_is_refused_at_its_line(tmp_path, text, said):
    path = tmp_path / "a.srt"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"a\.srt.*{said}"):
        open_source(path)


def test_what_is_not_there_or_outside_is_said(tmp_path):
    path = tmp_path / "a.jsonl"
    with pytest.raises(InputError, match=r"a\.jsonl"):
        open_source(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        open_source(path)
    path.write_bytes(b'{"time": 1, "text": "\xff"}\n')
    with pytest.raises(InputError, match="not UTF-8"):
        open_source(path)
    path.write_text('{"time": 1, "text": "a", "end": 4}\n{"time": 10, "text": "b"}')
    with pytest.raises(InputError, match="past the end"):
        open_source(path, start=12)
    with (
        open_source(path, start=2, end=5) as source,
        pytest.raises(InputError, match="no caption from start"),
    ):
        next(source)
    with pytest.raises(InputError, match="item 1 is a text"):
        list(open_source([(0.0, np.zeros((2, 2, 3), np.uint8)), Caption(1.0, text="a")]))
