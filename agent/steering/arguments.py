"""Parsers for the arguments of slash commands: quoted text, words, numbers, shares and factors."""

from __future__ import annotations

import math
import shlex

from memory.errors import ToolError
from prompts.printable import one_line


def unquoted(text: str) -> str:
    """Return a text without surrounding quotes and blanks."""
    return text.strip().strip("\"'“”").strip()


def split_words(text: str) -> list[str]:
    """Split a text like a shell; raises ToolError for an unclosed quote."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ToolError(f"A quote is not closed in: {one_line(text, 80)}") from error


def whole_number(text: str, most: int) -> int:
    """Parse an integer from 1 to `most`; raises ToolError for anything else."""
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:10]) <= most:
        raise ToolError(f"{one_line(text, 20)!r} is no whole number of 1 to {most}.")
    return int(text[:10])


def number_of(text: str, least: float, most: float) -> float:
    """Parse a number from `least` to `most`; raises ToolError for anything else."""
    try:
        number = float(text[:20])
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise ToolError(f"{one_line(text, 20)!r} is no number of {least:g} to {most:g}.")
    return number


def number_of_text(text: str) -> float:
    """Return the value of a number such as "20%", "0.7", "2x" or "2/3"."""
    if text.endswith("%"):
        return float(text[:-1]) / 100
    top, _, bottom = text.removesuffix("x").partition("/")
    return float(top) / float(bottom or 1)
