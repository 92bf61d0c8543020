"""The index stays open between operations, unless somebody else has opened it since."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from memory import chroma_clients
from memory.chroma import MemoryIndex
from tests.memory.test_chroma import ROOT, item

# Reads commands, one a line: what to add, and what to look for then.
OTHER = """
import json, sys
from pathlib import Path
from memory.chroma import MemoryIndex
from tests.memory.test_chroma import item
from tests.memory.test_chroma_clients import embed

index = MemoryIndex(Path(sys.argv[1]), embed)
for line in sys.stdin:
    add, find = json.loads(line)
    index.add([item(name, f"cell {name}") for name in add])
    hits = index.search_all([f"cell {name}" for name in find], n=1)
    print(json.dumps([own[0].item.id if own else None for own in hits]), flush=True)
"""


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Give every text a direction of its own."""
    directions = [np.random.default_rng(zlib.crc32(text.encode())) for text in texts]
    return [[float(x) for x in rng.standard_normal(64)] for rng in directions]


class Other:
    """Another process that uses an index, one command after the other."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def does(self, add: list[str], find: list[str]) -> list[str]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([add, find]) + "\n")
        self.process.stdin.flush()
        found: list[str] = json.loads(self.process.stdout.readline())
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[[Path], Other]]:
    """Start another process that uses an index; it is killed at the end of the test."""
    started: list[Other] = []

    def one_more(folder: Path) -> Other:
        started.append(Other(folder))
        return started[-1]

    yield one_more
    for other in started:
        other.kill()


def names(start: str, n: int) -> list[str]:
    return [f"{start}-{i}" for i in range(n)]


def found(index: MemoryIndex, wanted: list[str]) -> list[str]:
    hits = index.search_all([f"cell {name}" for name in wanted], n=1)
    return [own[0].item.id for own in hits]


def owner(folder: Path) -> str:
    """Who opened an index last: another name for each opening."""
    return (folder / chroma_clients.OWNER).read_text("ascii")


def test_a_process_alone_opens_its_index_once(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    owners = set()
    for turn in range(5):
        # Each command makes an index of its own; the folder is the same.
        index = MemoryIndex(folder, embed)
        index.add([item(f"{turn}", f"cell {turn}")])
        assert found(index, [f"{turn}"]) == [f"{turn}"]
        owners.add(owner(folder))
    index.forget("s", 2)
    assert index.stats()["items"] == 5
    assert owners == {owner(folder)}
    chroma_clients.close(folder)
    assert index.stats()["items"] == 5
    assert owners != {owner(folder)}


def test_two_processes_that_take_turns_see_what_the_other_has_added(
    tmp_path: Path, start: Callable[[Path], Other]
) -> None:
    folder = tmp_path / "memory"
    index, other = MemoryIndex(folder, embed), start(folder)
    wanted: list[str] = []
    # More than a hundred items, by which Chroma writes its index, of each within the turns.
    for turn in range(4):
        mine, theirs = names(f"mine-{turn}", 40), names(f"theirs-{turn}", 30)
        index.add([item(name, f"cell {name}") for name in mine])
        me = owner(folder)
        assert found(index, mine[:3]) == mine[:3]
        assert owner(folder) == me
        assert other.does(theirs, [*theirs[:3], *mine]) == [*theirs[:3], *mine]
        assert owner(folder) != me
        wanted += [*mine, *theirs]
        assert found(index, theirs) == theirs
    assert found(index, wanted) == wanted
    assert other.does([], wanted) == wanted
    # It dies with the index open.
    other.kill()
    last = start(folder)
    assert last.does(names("last", 150), wanted) == wanted
    assert found(index, [*wanted, *names("last", 150)]) == [*wanted, *names("last", 150)]
    assert index.stats()["items"] == len(wanted) + 150


def test_an_index_that_was_removed_or_replaced_is_not_kept(tmp_path: Path) -> None:
    index, other = (MemoryIndex(tmp_path / name, embed) for name in ("memory", "other"))
    index.add([item("a", "a cell")])
    other.add([item("b", "a cell"), item("c", "a cell")])
    chroma_clients.close(tmp_path / "other")
    shutil.rmtree(tmp_path / "memory")
    assert index.stats()["items"] == 0
    index.add([item("a", "a cell")])
    shutil.rmtree(tmp_path / "memory")
    shutil.copytree(tmp_path / "other", tmp_path / "memory")
    assert index.stats()["items"] == 2
