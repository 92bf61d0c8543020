"""The pictures of the web page, by session, round and id; drawn when a browser asks for them."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path

from agent.autonomous.report import legend_of, prompt_montages
from agent.loop.components import Components
from agent.web.registry import SessionRegistry
from memory.errors import DataError
from memory.records import Round

# Rounds whose strips are kept in memory.
_N_KEPT = 6
_FILE = re.compile(r"[A-Za-z0-9=._-]{1,100}\.png")


class Pictures:
    """PNG files of the sessions of a registry; a method raises DataError when there is none."""

    def __init__(self, registry: SessionRegistry) -> None:
        self._registry = registry
        self._strips: dict[tuple[str, str], Mapping[str, bytes]] = {}
        self._classes: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def shown(self, session: str, file: str) -> bytes:
        """Return a montage that a conversation has made."""
        if not _FILE.fullmatch(file):
            raise DataError(f"{file!r} is no picture of a conversation.")
        return _read(self._registry.folder(session) / "shown" / file)

    def failure(self, session: str, number: int, failure_id: str) -> bytes:
        """Return the photographs of a failure: wrong ones, with truth and prediction."""
        folder = self._registry.folder(session)
        for failure in self._round(session, number).failures:
            if failure.id == failure_id and failure.picture:
                path = (folder / failure.picture).resolve()
                # A journal may come from somebody else.
                if path.is_relative_to(folder.resolve()) and path.suffix == ".png":
                    return _read(path)
        raise DataError(f"Round {number} has no picture of a failure {failure_id!r}.")

    def prompt(self, session: str, number: int, prompt_id: str) -> bytes:
        """Return the first images of a prompt, each with its labels beside it."""
        of = self._round(session, number)
        key = (session, of.batch.model_dump_json() if of.batch else "")
        with self._lock:
            if key not in self._strips:
                needs = self.labels(session)
                drawn = prompt_montages(
                    self._registry.folder(session), [of], needs, self._pixel_classes(session)
                )
                kept = list(self._strips.items())[1 - _N_KEPT :]
                self._strips = {**dict(kept), key: drawn}
            strips = self._strips[key]
        if prompt_id not in strips:
            raise DataError(f"Round {number} has no images of a prompt {prompt_id!r}.")
        return strips[prompt_id]

    def legend(self, session: str) -> bytes:
        """Return what the colours of the labels mean."""
        with self._lock:
            legend = legend_of(self.labels(session), self._pixel_classes(session))
        if legend is None:
            raise DataError(f"The labels of {session!r} have no colours.")
        return legend

    def labels(self, session: str) -> tuple[str, ...]:
        """Return the kinds of labels that a session's images have, none for image classes."""
        return Components(self._registry.settings(session)).task.needs

    def _round(self, session: str, number: int) -> Round:
        for known in self._registry.rounds(session):
            if known.number == number:
                return known
        raise DataError(f"{session!r} has no round {number}.")

    def _pixel_classes(self, session: str) -> tuple[str, ...]:
        """Return the names of a target's pixel classes; the target is loaded once."""
        if not self.labels(session):
            return ()
        if session not in self._classes:
            hosted = self._registry.hosted(session)
            target = (
                hosted.live.bench.target
                if hosted
                else Components(self._registry.settings(session)).target
            )
            self._classes[session] = tuple(target.pixel_classes)
        return self._classes[session]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"The picture {path.name} is missing.") from error
