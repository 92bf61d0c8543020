"""Pictures of the web page by session, round and id, rendered on request."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path

from agent.autonomous.thumbnails import START, labelled_thumbnails, legend_of
from agent.loop.components import Components
from agent.session.folder import folder_of
from agent.web.registry import SessionRegistry
from memory.errors import DataError
from memory.records import Round

# Rounds whose strips are cached.
_N_KEPT = 6
_FILE = re.compile(r"[A-Za-z0-9=._-]{1,100}\.png")


class Pictures:
    """PNG files of the sessions of a registry."""

    def __init__(self, registry: SessionRegistry) -> None:
        self._registry = registry
        self._strips: dict[tuple[str, str], Mapping[str, bytes]] = {}
        self._classes: dict[str, tuple[str, ...]] = {}
        self._lock = threading.Lock()

    def read(self, session: str, path: str) -> bytes:
        """Return a picture as PNG.

        Args:
            session: Name of the session.
            path: "shown/FILE" for a montage of the chat, "failures/ROUND/ID" for photographs of a
                failure, "prompts/ROUND/ID" for the first images of a prompt, each with its labels
                beside it, or "legend" for the colours of the labels.

        Raises:
            ShapingError: There is no such picture, or no such session.
        """
        folder, picture = folder_of(self._registry.home, session), None
        match path.split("/"):
            case ["shown", file] if _FILE.fullmatch(file):
                picture = _file(folder / "shown" / file, folder)
            case ["failures", number, failure_id]:
                for failure in self._round(session, number).failures:
                    if failure.id == failure_id and failure.picture:
                        picture = _file(folder / failure.picture, folder)
            case ["prompts", number, prompt_id]:
                picture = self._prompts(session, self._round(session, number)).get(prompt_id)
            case ["legend"]:
                with self._lock:
                    picture = legend_of(self.labels(session), self._pixel_classes(session))
        if picture is None:
            raise DataError(f"The session {session!r} has no picture {path!r}.")
        return picture

    def has_start(self, session: str) -> bool:
        """Return whether the montage of the photographs that a session starts from exists."""
        return (folder_of(self._registry.home, session) / START).is_file()

    def _prompts(self, session: str, drawn: Round) -> Mapping[str, bytes]:
        """Return the strips of a round's prompts by id, cached for the last few rounds."""
        key = (session, drawn.batch.model_dump_json() if drawn.batch else "")
        with self._lock:
            if key not in self._strips:
                kinds, classes = self.labels(session), self._pixel_classes(session)
                folder = folder_of(self._registry.home, session)
                batch = drawn.batch
                strips = labelled_thumbnails(folder, batch, kinds, classes) if batch else {}
                self._strips = dict([*self._strips.items()][1 - _N_KEPT :]) | {key: strips}
            return self._strips[key]

    def labels(self, session: str) -> tuple[str, ...]:
        """Return the kinds of pixel labels of a session's images; () for classification."""
        return Components(self._registry.settings(session)).task.needs

    def _round(self, session: str, number: str) -> Round:
        for candidate in self._registry.rounds(session):
            if str(candidate.number) == number:
                return candidate
        raise DataError(f"The session {session!r} has no round {number!r}.")

    def _pixel_classes(self, session: str) -> tuple[str, ...]:
        """Return the names of the pixel classes of a session's target, which is loaded once."""
        if not self.labels(session):
            return ()
        if session not in self._classes:
            hosted = self._registry.hosted(session)
            components = hosted.live.components if hosted else None
            target = (components or Components(self._registry.settings(session))).target
            self._classes[session] = tuple(target.pixel_classes)
        return self._classes[session]


def _file(path: Path, folder: Path) -> bytes | None:
    """Return a PNG file; None: it does not exist, or is outside the folder of the session."""
    # Paths of a journal are not trusted, since it may come from somebody else.
    is_inside = path.resolve().is_relative_to(folder.resolve()) and path.suffix == ".png"
    return path.read_bytes() if is_inside and path.is_file() else None
