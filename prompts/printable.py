"""Removal of control characters from text of models, users and files, for printing."""

from __future__ import annotations


def printable(text: object) -> str:
    """Return a text with every control character except line feeds replaced by a space."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in str(text))


def one_line(text: str, limit: int | None = None) -> str:
    """Return a text on one line without control characters, cut to `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 3]}..."
