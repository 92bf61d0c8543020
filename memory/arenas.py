"""Limits on freed memory that glibc keeps for threads; no effect with other C libraries."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

# M_ARENA_MAX in glibc's malloc.h.
_ARENA_MAX = -8
_N_ARENAS = 2


def share_arenas() -> None:
    """Limit malloc to two arenas for all threads of this process.

    By default glibc makes up to eight a core, and each keeps what was freed in it (man 3 mallopt).
    Low thresholds for giving that back are no way: torch's tensors would come from the kernel each
    time, and a step of a small network on a CPU take 2.5 times as long. To be called before there
    are many threads: arenas that there are stay.
    """
    if _is_glibc():
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _N_ARENAS)


def give_back() -> None:
    """Return freed memory to the system, after a large and rare allocation.

    Takes milliseconds. Of arenas other than the first one their ends stay (man 3 malloc_trim).
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@cache
def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
