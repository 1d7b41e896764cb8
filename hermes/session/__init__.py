"""A stream, its memory, and questions at any time."""
