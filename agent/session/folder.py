"""The session folder: created once, opened under a lock, resumed by the same name.

sessions/NAME/  session.yaml  journal.jsonl  graph.sqlite  jobs/  rounds/  lock
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from filelock import FileLock, Timeout

from agent.config.settings import Settings, differences, fingerprint
from agent.config.stored import read_stored
from agent.session import trust
from agent.session.control import (
    Condition,
    Control,
    Heartbeat,
    condition,
    other_host,
    read_heartbeat,
)
from memory.arenas import share_arenas
from memory.errors import SessionError, SessionInUse, SettingsError, ShapingError, Stopped
from memory.events import EndedEvent, Event, RoundDoneEvent
from memory.files import (
    first_free,
    make_folder,
    remove_temporaries,
    storage_error,
    storing,
    write_bytes,
)
from memory.journal import Journal, read_events, rounds
from memory.records import Round
from memory.user_folders import refuse_foreign

if TYPE_CHECKING:
    from memory.chroma import MemoryIndex

SessionState = Literal[
    "running", "paused", "stuck", "dead", "failed", "stopped", "finished", "open", "damaged"
]
"""running, paused: in normal operation; stuck: no heartbeats; dead: the process is gone; failed:
ended by an error; stopped: on request; finished: by a limit; open: left by a version without
heartbeats; damaged: settings or journal cannot be read."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STEM = 40
# Names of files that may exist in a folder before session.yaml.
_BEGUN = ("lock", r"lock\.json")


@dataclass(frozen=True)
class SessionInfo:
    """An entry in the list of `shaping sessions`."""

    name: str
    data: str
    rounds_done: int
    rounds: int
    score: float | None
    updated: str
    state: SessionState
    problem: str = ""
    """Reason why the session cannot be read, "" if it can."""


@dataclass(frozen=True)
class Session:
    """An open session: name, folder, settings, journal, and control from outside."""

    name: str
    folder: Path
    settings: Settings
    journal: Journal
    control: Control

    def rounds(self, last: int | None = None) -> list[Round]:
        """Return the last rounds, None for all, folded from the journal."""
        return self.journal.rounds(last)

    def round(self, number: int) -> Round | None:
        """Return a round, or None if it has no events."""
        return self.journal.round(number)

    def n_done(self) -> int:
        """Return the number of finished rounds."""
        return self.journal.count(RoundDoneEvent)


def folder_of(home: Path, name: str) -> Path:
    """Return the folder of a session; raises SettingsError for an invalid name."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"The session name {name!r} cannot be used. Use 1 to 64 letters, digits, '.', '_' or "
            "'-', beginning with a letter or digit."
        )
    return home / "sessions" / name


def memory_of(
    home: Path, tell: Callable[[str], None] = lambda text: None, url: str | None = None
) -> MemoryIndex:
    """Return the memory of all sessions under a home folder.

    Args:
        home: Home folder.
        tell: Called with messages about damage and rebuilds.
        url: Address of a Chroma server that several homes share; None: the index in `home`.
    """
    if url is not None:
        from memory.server import ServedMemory

        return ServedMemory(url, home / "memory", journals=lambda: journals(home), tell=tell)
    from memory.chroma import MemoryIndex

    return MemoryIndex(home / "memory", journals=lambda: journals(home), tell=tell)


def journals(home: Path) -> list[Path]:
    """Return the journals of all sessions under a home folder."""
    return sorted((home / "sessions").glob("*/journal.jsonl"))


def next_name(home: Path, stem: str) -> str:
    """Return STEM-N with the first free number N and characters allowed in names."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:_STEM] or "session"
    with storing(home):
        return first_free(lambda n: home / "sessions" / f"{stem}-{n}").name


def unfinished(settings: Settings) -> str | None:
    """Return the name of the latest unfinished session with these settings, or None.

    Sessions that a process holds are ignored.
    """
    ignored = ("home: ", "session.name: ")
    same = []
    for path in _settings_files(settings.home):
        # Settings are compared first, since reading journals takes longer.
        with contextlib.suppress(ShapingError):
            changes = differences(_read_settings(path), settings)
            if all(change.startswith(ignored) for change in changes):
                same.append(path)
    idle = [info for info in _infos(same) if info.state in ("dead", "failed", "stopped", "open")]
    return idle[0].name if idle else None


def latest(home: Path) -> str:
    """Return the name of the most recently active session; raises SettingsError for none."""
    sessions = [info for info in list_sessions(home) if not info.problem]
    if not sessions:
        raise SettingsError(
            f"There are no readable sessions under {home}. Start one with `shaping run`, or name "
            "another folder with --home."
        )
    return sessions[0].name


@contextmanager
def open_session(settings: Settings, name: str) -> Iterator[Session]:
    """Create or resume a session and hold its lock.

    Raises:
        SessionInUse: Another process holds it; the message names pid and host.
        SettingsError: The session was created with other settings; the differences are named.
        UntrustedSession: Its folder names commands or code that were not given on this machine.
        StorageError: Its folder cannot be written.
    """
    # Whenever the memory is opened, Chroma loads the whole index in its own threads.
    share_arenas()
    folder = folder_of(settings.home, name)
    with storing(folder):
        make_folder(folder)
    refuse_foreign(folder, "session.yaml", _BEGUN, "--session")
    with _locked(folder, name):
        with storing(folder):
            _check_settings(folder / "session.yaml", settings, name)
            remove_temporaries(folder)
            journal = Journal(folder / "journal.jsonl")
            control = Control(folder, settings.limits)
        try:
            yield Session(name, folder, settings, journal, control)
        except Stopped:
            control.close()
            raise
        except BaseException as error:
            control.close(f"{type(error).__name__}: {error}")
            raise
        else:
            control.close()


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    # Not per thread: the web page closes sessions in another thread than it opens them in.
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        last = read_heartbeat(folder)
        by = f" by {_process(last)}" if last and last.holder.alive() else ""
        raise SessionInUse(
            f"The session {name!r} is in use{by}. Wait until it ends, stop that process, or choose "
            "another name with --session."
        ) from None
    except OSError as error:
        raise storage_error(folder, error) from error
    try:
        if held := other_host(folder):
            raise SessionInUse(
                f"The session {name!r} is in use by {_process(held)}, which gave a sign of life "
                f"{held.age_s():.0f} s ago. Stop it there: shaping stop {name}. If that machine "
                f"is gone: shaping resume {name} --take-over"
            )
        yield
    finally:
        lock.release()


def _process(beat: Heartbeat) -> str:
    return f"process {beat.holder.pid} on {beat.holder.host}"


def _check_settings(path: Path, settings: Settings, name: str) -> None:
    is_stored = False
    if path.exists():
        stored = _read_settings(path)
        # Computed from the settings as read now: settings added since are equal in both.
        if fingerprint(stored) != fingerprint(settings):
            bound = differences(stored, settings, bound=True)
            raise SettingsError(
                f"The session {name!r} was made with other settings: {'; '.join(bound)}. "
                f"Continue it with its own (shaping resume {shlex.quote(name)}), or choose another "
                "name with --session."
            )
        trust.check(settings, stored, name)
        is_stored = not differences(stored, settings)
    trust.trust(settings)
    if not is_stored:
        store_settings(path.parent, settings)


def store_settings(folder: Path, settings: Settings) -> None:
    """Write the settings of the session in `folder`."""
    data = {"fingerprint": fingerprint(settings), "settings": settings.model_dump(mode="json")}
    write_bytes(folder / "session.yaml", yaml.safe_dump(data, sort_keys=False).encode())


def _read_settings(path: Path) -> Settings:
    home = str(path.parents[2])
    try:
        values = dict(yaml.safe_load(path.read_text("utf-8"))["settings"])
        values = _moved(values, str(values.get("home", home)), home)
        settings = read_stored({**values, "home": home})
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise SessionError(
            f"{path} cannot be read as the settings of a session of this version: {error}. "
            "Restore it, or choose another session name."
        ) from error
    trust.mark_code(settings)
    return settings


def _moved(value: Any, old: str, new: str) -> Any:
    """Return plain values with paths in the home folder `old` replaced by those in `new`."""
    if isinstance(value, dict):
        return {key: _moved(part, old, new) for key, part in value.items()}
    if isinstance(value, str) and f"{value}/".startswith(f"{old}/"):
        return new + value.removeprefix(old)
    return value


def has_session(home: Path, name: str) -> bool:
    """Return whether there is a session of this name."""
    return (folder_of(home, name) / "session.yaml").exists()


def stored_settings(home: Path, name: str) -> Settings:
    """Return the settings of a session, with `home` set to the given folder.

    Raises SettingsError with the known names for an unknown one.
    """
    path = folder_of(home, name) / "session.yaml"
    if not has_session(home, name):
        names = ", ".join(info.name for info in list_sessions(home)) or "none"
        raise SettingsError(f"There is no session {name!r} under {home}. Known: {names}.")
    return _read_settings(path)


def state_of(now: Condition, events: Sequence[Event], n_rounds: int) -> SessionState:
    """Return the state of a session from its heartbeat and its journal."""
    if now.state != "ended":
        return now.state
    if now.heartbeat and now.heartbeat.why:
        return "failed"
    if events and isinstance(events[-1], EndedEvent):
        return "stopped" if events[-1].rule in ("asked", "signal") else "finished"
    n_done = sum(isinstance(event, RoundDoneEvent) for event in events)
    return "finished" if n_done >= n_rounds else "open"


def list_sessions(home: Path) -> list[SessionInfo]:
    """Return all sessions under a home folder, the latest first, damaged ones last."""
    return _infos(_settings_files(home))


def _settings_files(home: Path) -> Iterator[Path]:
    return (home / "sessions").glob("*/session.yaml")


def _infos(paths: Iterable[Path]) -> list[SessionInfo]:
    """Return the sessions of session.yaml files, the latest first, damaged ones last."""
    infos = []
    for path in paths:
        try:
            infos.append(_info(path.parent))
        except (ShapingError, OSError, ValueError, KeyError) as error:
            problem = f"{error}" if isinstance(error, ShapingError) else f"{path.parent}: {error!r}"
            infos.append(SessionInfo(path.parent.name, "", 0, 0, None, "", "damaged", problem))
    return sorted(infos, key=lambda info: info.updated, reverse=True)


def _info(folder: Path) -> SessionInfo:
    settings = _read_settings(folder / "session.yaml")
    journal = folder / "journal.jsonl"
    events = read_events(journal) if journal.exists() else []
    figures = [r.main_figure for r in rounds(events) if r.main_figure]
    return SessionInfo(
        name=folder.name,
        data=settings.data,
        rounds_done=sum(isinstance(event, RoundDoneEvent) for event in events),
        rounds=settings.session.rounds,
        score=figures[-1].value if figures else None,
        updated=events[-1].time if events else "",
        state=state_of(condition(folder), events, settings.session.rounds),
    )
