"""A stream, its memory, and questions at any time."""

from typing import TYPE_CHECKING

from hermes.forwarding import former_names

if not TYPE_CHECKING:
    __getattr__ = former_names(__name__)
