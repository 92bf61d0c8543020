"""Exceptions that a user can act on.

Every message names what was given, what was expected and what to do. The tree::

    ShapingError             base of all errors with a message for the user
    |- SettingsError         a preset, key, value or name that cannot be used
    |- DataError             a target, image, label or split that is unusable
    |- WeightsError          model weights that are missing, damaged or foreign
    |  `- NotPretrained      an MTDM for a user's own data that is not trained yet
    |- SessionError          a session folder that is in use, foreign or damaged
    |  |- SessionInUse       one that another process holds
    |  `- UntrustedSession   one that names commands or code that were not given here
    |- StorageError          a disk that is full or cannot be written
    |- ToolError             a tool call that is illegal or malformed
    |- BrainError            a language model that cannot be reached or gives no answer
    `- Stopped               a session that has to end now and can be resumed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ShapingError(Exception):
    """Base of all errors with a message for the user."""


class SettingsError(ShapingError):
    """A preset, key, value or name that cannot be used."""


class DataError(ShapingError):
    """A target, image, label or split that is unusable."""


class WeightsError(ShapingError):
    """Model weights that are missing, damaged or foreign."""


class NotPretrained(WeightsError):
    """An MTDM for a user's own data that is not trained yet.

    todo: instructions to train it; notice: description of how the data are read.
    """

    def __init__(self, todo: str, notice: str) -> None:
        super().__init__(f"{todo}\nThis is how the data are read:\n{notice}")
        self.todo, self.notice = todo, notice


class SessionError(ShapingError):
    """A session folder that is in use, foreign or damaged."""


class SessionInUse(SessionError):
    """A session that another process holds."""


class UntrustedSession(SessionError):
    """A session folder that names commands or code that were not given on this machine."""


class StorageError(ShapingError):
    """A disk that is full or cannot be written."""


class ToolError(ShapingError):
    """A tool call that is illegal or malformed; the message tells the agent what is legal."""


class BrainError(ShapingError):
    """A language model that cannot be reached, refuses, or gives no usable answer."""


class Stopped(ShapingError):
    """Raised at a safe point of a session that has to end now; it can be resumed.

    rule: "asked", "signal", or the limit that was reached, e.g. "max_hours".
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


# Largest number of known names in a message.
_MAX_NAMES = 60


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """Return a message about an unknown name, with the nearest known names and a list of them.

    Of more than 60 dotted names, only those of the section of the given name are listed, or else
    the sections.
    """
    names = sorted(known)
    section, _, last = given.rpartition(".")
    moved = [name for name in names if name.endswith(f".{last}")]
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    near = list(dict.fromkeys([*moved, *close]))[:3]
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    if len(names) > _MAX_NAMES:
        names = [n for n in names if section and n.startswith(f"{section}.")] or list(
            dict.fromkeys(f"{n.partition('.')[0]}.*" if "." in n else n for n in names)
        )
    return f"Unknown {kind} {given!r}.{hint} Known: {some(names, _MAX_NAMES) or 'none'}."


def some(words: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first `most` words, joined by `between`, with ", ..." if there are more."""
    return between.join(words[:most]) + (", ..." if len(words) > most else "")
