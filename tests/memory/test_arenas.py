"""What was freed is kept for two threads at most, and given back when asked."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

THREADS_IN_TURN = """
import sys, threading
import psutil
from memory.arenas import share_arenas

if sys.argv[1] == "shared":
    share_arenas()
bytes(30_000_000)  # since one of this size was freed, glibc keeps as much at the end of an arena
turns = [threading.Event() for _ in range(9)]

def work(n):
    turns[n].wait()
    blocks = [b"x" * 100_000 for _ in range(200)]
    del blocks
    turns[n + 1].set()
    turns[-1].wait()

threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for thread in threads:
    thread.start()
before = psutil.Process().memory_info().rss
turns[0].set()
for thread in threads:
    thread.join()
print((psutil.Process().memory_info().rss - before) / 1e6)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator without arenas")
def test_freed_memory_is_kept_for_two_threads_and_not_for_each() -> None:
    def kept_mb(how: str) -> float:
        command = [sys.executable, "-c", THREADS_IN_TURN, how]
        return float(subprocess.run(command, capture_output=True, check=True).stdout)

    # Eight threads, one after the other, of which each takes 20 MB and gives it back.
    assert kept_mb("shared") < 45
    assert kept_mb("as it is") > 100


FREED_BETWEEN_WHAT_IS_KEPT = """
import psutil
from memory.arenas import give_back

before = psutil.Process().memory_info().rss
blocks = [b"x" * 100_000 for _ in range(400)]
kept = b"x" * 100_000
del blocks
freed = psutil.Process().memory_info().rss
give_back()
after = psutil.Process().memory_info().rss
print((freed - before) / 1e6, (after - before) / 1e6)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator of another kind")
def test_what_was_freed_below_what_is_kept_is_given_back() -> None:
    command = [sys.executable, "-c", FREED_BETWEEN_WHAT_IS_KEPT]
    found = subprocess.run(command, capture_output=True, check=True).stdout
    freed_mb, after_mb = map(float, found.split())
    assert freed_mb > 35
    assert after_mb < 5
