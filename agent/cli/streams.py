"""Standard streams whose write errors never end a command; output is dropped instead."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO


class Lenient:
    """A text stream that drops all output after its first write error.

    Attributes:
        error: The first error; None: there was none.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._drop(error)
        return len(text)

    def flush(self) -> None:
        """Flush what was written, or drop it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.error = self.error or error
        # Redirects the descriptor itself: buffered text and output of child processes go there too.
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, self._stream.fileno())
        os.close(sink)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def make_lenient() -> None:
    """Make the standard streams of this process lenient; open closed ones on the null device.

    Otherwise the next opened file, such as a journal, would take the descriptor of a closed stream
    and receive what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, Lenient(stream))


def lost_output() -> OSError | None:
    """Return the write error of standard output; None: there was none, or its reader has left."""
    sys.stdout.flush()
    error = sys.stdout.error if isinstance(sys.stdout, Lenient) else None
    return None if error is None or error.errno == errno.EPIPE else error
