"""Files that anybody may have written: JSON read within limits, every field of its type."""

from hermes.reading.fields import Count, Form, Number, Share, Span, Words, typed, with_types
from hermes.reading.texts import (
    MOST_DEPTH,
    fault,
    lies_in,
    loads,
    parse_json,
    read_json,
    read_lines,
    read_object,
    read_text,
    short,
)

__all__ = [
    "MOST_DEPTH",
    "Count",
    "Form",
    "Number",
    "Share",
    "Span",
    "Words",
    "fault",
    "lies_in",
    "loads",
    "parse_json",
    "read_json",
    "read_lines",
    "read_object",
    "read_text",
    "short",
    "typed",
    "with_types",
]
