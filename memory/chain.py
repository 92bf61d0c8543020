"""The checksums that chain the lines of a journal."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

# End of a line: a checksum of the line and of the checksum of the line before.
_CHAIN = re.compile(rb', "chain": "([0-9a-f]{16})"\}')
_CHAIN_BYTES = 30


def link(before: str, line: bytes) -> str:
    """Return the checksum of a line that follows one with the checksum `before`."""
    return hashlib.sha256(before.encode() + line).hexdigest()[:16]


def changed_lines(path: Path) -> list[int]:
    """Return the numbers of the lines that were changed or follow a removed line.

    Lines at the beginning without checksums, of early versions, are not checked.
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
    """Return lines with recomputed checksums, for texts that were changed on purpose."""
    sealed = []
    before = ""
    for line in lines:
        text = line.rstrip(b"\n")
        if _CHAIN.fullmatch(text[-_CHAIN_BYTES:]):
            text = text[:-_CHAIN_BYTES] + b"}"
        before = link(before, text)
        sealed.append(text[:-1] + f', "chain": "{before}"}}\n'.encode())
    return sealed
