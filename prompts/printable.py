"""Text of models, users and files without control characters, for printing."""

from __future__ import annotations


def printable(text: object) -> str:
    """Return a text whose control characters, but for ends of lines, are spaces."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in str(text))


def one_line(text: str, limit: int | None = None) -> str:
    """Return a text without control characters, on one line, cut to `limit` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if limit is None or len(line) <= limit else f"{line[: limit - 3]}..."
