"""Texts and values that a file may hold and nothing may obey, stumble over or lose."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

# What rich, matplotlib, Markdown, HTML, spreadsheets and terminals would obey.
TEXTS = (
    "[/ocr]",
    "[ocr] signs",
    "[bold red]x[/bold red]",
    "[link=file:///etc/passwd]x[/link]",
    ":smile: :warning:",
    r"$\frac$",
    r"$x_{1}$ and \$5",
    "$",
    "_hidden",
    "a|b\nc",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![pixel](http://host/p.png)",
    "http://host/path www.host.com me@host.com",
    "`code` **bold** ~~gone~~",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "# heading",
    "- item",
    "1. item",
    "&lt;b&gt;",
    "{expected} {0} %s %(x)s",
    "${oc.env:HOME}",
    "\x1b[31mred\x1b[0m",
    "\u202eright to left",
    "line\u2028separator",
    "half \ud83d of a face",
    "日本語 العربية 😀",
    "x" * 300,
    "",
    " ",
)

# What a field may hold instead of what it should.
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        1e308,
        -1e308,
        2**63,
        10**400,
        float("inf"),
        float("-inf"),
        float("nan"),
    ),
    *(
        "",
        "text",
        "\ud800",
        "9" * 400,
        [],
        [1],
        [[]],
        [None],
        {},
        {"a": 1},
        [["x"] * 3],
        "1e999",
        "${oc.env:HOME}",
    ),
)


def spots(content: Any) -> list[tuple[Any, Any]]:
    """Every place in nested lists and objects, as container and key."""
    found: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        one = waiting.pop()
        pairs = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, value in pairs:
            found.append((one, key))
            waiting.append(value)
    return found


def mutated(content: Any, rng: random.Random) -> Any:
    """The content with a field or two of another value, gone, under another name, or twice."""
    made = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2))):
        places = spots(made)
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice((f"{key}s", "", "extra", "\ud800"))] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return made


def damaged(text: bytes, rng: random.Random) -> bytes:
    """Bytes of a file after a crash or by another program."""
    at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    return rng.choice(
        (
            text[:at],
            text[at:],
            text[:at] + text[to:],
            text[:at] + bytes(rng.randrange(256) for _ in range(4)) + text[at:],
            text[:at] + b"\0" * 40,
            b"\xef\xbb\xbf" + text,
            text.decode("utf-8", "replace").encode("utf-16"),
            text.replace(b"\n", b"\r\n"),
            text[:at] + b"[" * 200_000 + text[at:],
            text[:at] + b'{"a":' * 50_000,
            text.replace(b'"', b"'"),
            b"",
        )
    )


def cases(content: Any, count: int, seed: int) -> Iterator[bytes]:
    """Files like that of a content, each wrong in its own way; half by value, half by bytes."""
    rng = random.Random(seed)
    for number in range(count):
        if number % 2:
            yield damaged(json.dumps(content).encode(), rng)
        else:
            yield json.dumps(mutated(content, rng)).encode()
