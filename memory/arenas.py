"""How much freed memory the C library keeps for threads: without glibc, nothing is done here."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

# M_ARENA_MAX in glibc's malloc.h.
_ARENA_MAX = -8
_N_ARENAS = 2


def share_arenas() -> None:
    """Let all threads of this process allocate from two arenas.

    By default glibc makes up to eight a core, and each keeps what was freed in it (man 3 mallopt).
    Low thresholds for giving that back are no way: torch's tensors would come from the kernel each
    time, and a step of a small network on a CPU take 2.5 times as long. To be called before there
    are many threads: arenas that there are stay.
    """
    if _is_glibc():
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _N_ARENAS)


def give_back() -> None:
    """Give freed memory back to the system, after something large that comes seldom.

    Takes milliseconds. Of arenas other than the first one their ends stay (man 3 malloc_trim).
    """
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


@cache
def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
