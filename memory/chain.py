"""The checksums that chain the lines of a journal."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

# How a line ends: the checksum of the line and of the one before it.
_CHAIN = re.compile(rb', "chain": "([0-9a-f]{16})"\}')
_CHAIN_BYTES = 30


def link(before: str, line: bytes) -> str:
    """Return the checksum of a line that follows one with the checksum `before`."""
    return hashlib.sha256(before.encode() + line).hexdigest()[:16]


def changed_lines(path: Path) -> list[int]:
    """Return the numbers of the lines that are not as they were written, or follow a gap.

    Lines of a version that wrote no checksums are taken as they are.
    """
    changed = []
    before = ""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        tail = _CHAIN.fullmatch(line[-_CHAIN_BYTES:])
        checksum = tail[1].decode() if tail else ""
        if tail:
            intact = checksum == link(before, line[:-_CHAIN_BYTES] + b"}")
        else:
            intact = not before and b'"chain"' not in line[-_CHAIN_BYTES - 8 :]
        if not intact:
            changed.append(number)
        before = checksum
    return changed


def seal(lines: Iterable[bytes]) -> list[bytes]:
    """Return lines whose text was changed on purpose with checksums that fit again."""
    sealed = []
    before = ""
    for line in lines:
        text = line.rstrip(b"\n")
        if _CHAIN.fullmatch(text[-_CHAIN_BYTES:]):
            text = text[:-_CHAIN_BYTES] + b"}"
        before = link(before, text)
        sealed.append(text[:-1] + f', "chain": "{before}"}}\n'.encode())
    return sealed
