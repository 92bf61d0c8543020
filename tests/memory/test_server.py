"""The memory on a real Chroma server, `chroma run`, on a free port of this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from memory import server as memory_server
from memory.chroma import MemoryIndex
from memory.errors import SettingsError, StorageError
from memory.items import items_from_events
from memory.journal import read_events
from memory.server import ServedMemory
from tests.memory.test_chroma import embed, item, write_session


@dataclass
class Server:
    """A Chroma server that can be stopped and started again on its data."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    command: str = field(default_factory=lambda: str(Path(sys.executable).with_name("chroma")))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        arguments = ["run", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [self.command, *arguments, "--path", str(self.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{self.url}/api/v2/heartbeat", timeout=5).raise_for_status()
                return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise TimeoutError("`chroma run` does not answer")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if shutil.which("chroma", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("needs the command `chroma`, which comes with chromadb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = Server(tmp_path / "server", free.getsockname()[1])
    found.start()
    yield found
    found.stop()


def home(folder: Path, url: str, told: list[str]) -> ServedMemory:
    """The memory of a home whose sessions are in `folder`."""
    return ServedMemory(
        url,
        folder / "memory",
        embed,
        lambda: sorted(folder.glob("*/journal.jsonl")),
        told.append,
    )


def test_a_server_is_shared_by_homes(tmp_path: Path, server: Server) -> None:
    told: list[str] = []
    one, two = home(tmp_path / "one", server.url, told), home(tmp_path / "two", server.url, told)
    first = item("a", "a dark poly cell", data={"kept_rate": 0.9, "held": True})
    one.add([first])
    two.add([item("a", "a bright mono cell"), item("b", "apple cake", kind="lesson", round=2)])
    hits = one.search("dark poly cell", n=2)
    assert [hit.item.text for hit in hits] == ["a dark poly cell", "a bright mono cell"]
    assert hits[0].item == first
    assert [hit.item.id for hit in one.search("cake", kind="lesson", target="elpv")] == ["b"]
    assert one.stats()["items"] == 3
    two.forget("s", 1)
    assert [hit.item for hit in two.search("cell")] == [first]
    assert told == []
    assert not (tmp_path / "one" / "memory" / "chroma.sqlite3").exists()


def test_a_new_server_gets_what_the_journals_tell(tmp_path: Path, server: Server) -> None:
    path = write_session(tmp_path / "one", "night", 2)
    expected = MemoryIndex(tmp_path / "local", embed)
    expected.add(items_from_events(read_events(path)))
    memory = home(tmp_path / "one", server.url, [])
    assert memory.stats() == expected.stats()
    hits, wanted = (index.search("dark cells", n=4) for index in (memory, expected))
    assert [hit.item for hit in hits] == [hit.item for hit in wanted]
    assert [h.similarity for h in hits] == pytest.approx([h.similarity for h in wanted], abs=1e-5)
    other = home(tmp_path / "two", server.url, [])
    other.add([item("x", "of another home")])
    assert memory.reindex([path]) == expected.stats()["items"]
    assert memory.stats()["items"] == expected.stats()["items"] + 1


def test_a_server_that_is_away_is_stood_in_for_and_caught_up_with(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_server, "COOL_DOWN_S", 0.0)
    told: list[str] = []
    memory = home(tmp_path / "one", server.url, told)
    write_session(tmp_path / "one", "day")
    n_items = memory.stats()["items"]
    server.stop()
    path = write_session(tmp_path / "one", "night")
    memory.add(items_from_events(read_events(path)))
    assert memory.stats()["sessions"].keys() == {"day", "night"}
    assert len(told) == 1
    assert server.url in told[0]
    assert "chroma run" in told[0]
    with pytest.raises(StorageError, match="cannot be used"):
        memory.forget("day", 1)
    server.start()
    assert memory.stats()["items"] == 2 * n_items
    assert len(told) == 1


def test_without_journals_an_unreachable_server_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    memory = ServedMemory(url, tmp_path / "memory", embed)
    with pytest.raises(StorageError, match=rf"server {url} cannot be used: .*chroma run"):
        memory.search("anything")


@pytest.mark.parametrize("url", ["memory", "ftp://host:1", "http://", "http://host:1/path", "x:y"])
def test_only_urls_of_servers_are_taken(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="expected http://HOST:PORT"):
        ServedMemory(url, tmp_path / "memory", embed)
