"""Limits on the freed memory that glibc retains; no effect with other C libraries."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

# M_ARENA_MAX in glibc's malloc.h.
_ARENA_MAX = -8
_N_ARENAS = 2


def share_arenas() -> None:
    """Limit malloc to two arenas for all threads of this process.

    By default glibc creates up to eight arenas per core, each of which retains the memory freed in
    it (man 3 mallopt). Low trim thresholds are no alternative: torch would request every tensor
    from the kernel, and a step of a small network on a CPU would take 2.5 times as long. Call it
    before threads are started, since existing arenas remain.
    """
    if _is_glibc():
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _N_ARENAS)


def give_back() -> None:
    """Return freed memory to the system, after a large and rare allocation.

    Takes milliseconds. The free top of arenas other than the first is retained (man 3 malloc_trim).
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@cache
def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
