"""Sessions as one file: packed without weights, secrets and paths, and opened with suspicion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.session import folder_of, latest, stored_settings


@contextmanager
def opened(home: Path, name: str | None) -> Iterator[Path]:
    """Yield the folder of a session, the latest by default, or of an unpacked bundle NAME.zip."""
    name = name or latest(home)
    stored_settings(home, name)
    yield folder_of(home, name)
