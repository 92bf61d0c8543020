"""Forks: new sessions that share the first rounds of another one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from agent.config.settings import differences, with_changes
from agent.session import data_manifest, trust
from agent.session.folder import folder_of, open_session, store_settings, stored_settings
from memory.errors import SessionError, SettingsError
from memory.events import Event, ForkedEvent, RoundDoneEvent, ToolCallEvent
from memory.files import first_free, storage_error, sync_folder, write_bytes
from memory.journal import head_of, read_events
from tools.data.jobs import round_folder

# Settings of the shared rounds that later rounds cannot change.
_FIXED = ("target", "generator", "audit", "feedback", "session.seed", "dstm")


def fork(
    home: Path, name: str, at: int, new_name: str | None = None, changes: Sequence[str] = ()
) -> str:
    """Create a session that shares the rounds before `at` with another one; return its name.

    The files of the shared rounds are hard links inside `home`, so they take no space.

    Args:
        home: Home folder.
        name: Name of the source.
        at: First round that the fork does not share.
        new_name: Name of the fork; None for `NAME-atN`.
        changes: Settings to change as "key=value", as for `shaping run --set`.

    Raises:
        SettingsError: The round has not been reached, or a change contradicts the shared rounds.
        SessionError: The new name is taken.
        UntrustedSession: The source names commands or code that were not given on this machine.
    """
    folder = folder_of(home, name)
    old = stored_settings(home, name)
    new_name = new_name or _free_name(home, f"{name}-at{at}")
    new_folder = folder_of(home, new_name)
    if new_folder.exists():
        raise SessionError(
            f"There is a session {new_name!r} already. Choose another name with --as."
        )
    settings = with_changes(old, [*changes, f"session.name={new_name}", f"home={home}"])
    if changed := [
        change
        for change in differences(old, settings)
        if any(f"{change.partition(':')[0]}.".startswith(f"{key}.") for key in _FIXED)
    ]:
        raise SettingsError(
            f"A fork shares images and models with its source, so {'; '.join(changed)} cannot "
            "change. Begin a new session for that: shaping run"
        )
    trust.check(settings, old, name)
    lines = _shared_lines(folder / "journal.jsonl", name, at)
    try:
        for number in range(at):
            source, copy = round_folder(folder, number), round_folder(new_folder, number)
            if not number and not source.exists():
                continue  # it has no round 0
            shutil.copytree(source, copy, copy_function=partial(_link, home=home.resolve()))
            for place in (*(p for p in copy.rglob("*") if p.is_dir()), copy, copy.parent):
                sync_folder(place)
        write_bytes(new_folder / "journal.jsonl", b"".join(lines))
        data_manifest.share(folder, new_folder)
        trust.trust(settings)  # checked above, or given in `changes`
        store_settings(new_folder, settings)
        with open_session(settings, new_name) as session:
            session.journal.append(ForkedEvent(session=new_name, source=name, at=at))
    except OSError as error:
        shutil.rmtree(new_folder, ignore_errors=True)
        raise storage_error(new_folder, error) from error
    return new_name


def _link(source: str, copy: str, home: Path) -> None:
    """Create a hard link to a file in `home`; copy a file outside, behind a symbolic link."""
    file = Path(source).resolve()
    if file.is_relative_to(home):
        os.link(file, copy)
    else:
        shutil.copyfile(file, copy)


def _shared_lines(path: Path, name: str, at: int) -> list[bytes]:
    """Return the lines of a journal before round `at`."""
    events = read_events(path, undone=True)
    head_of(events)
    lines = path.read_bytes().splitlines(keepends=True)
    n_done = sum(isinstance(e, RoundDoneEvent) for e in read_events(path))
    if not 2 <= at <= n_done + 1:
        at_which = f"--at must be 2 to {n_done + 1}" if n_done else "there is none to share"
        raise SettingsError(
            f"A fork shares round 1 at least, and the session {name!r} has ended {n_done} rounds, "
            f"so {at_which}, not {at}."
        )
    end = next(
        (i for i, e in reversed(list(enumerate(events))) if _ends(e, at - 1)), len(events) - 1
    )
    return lines[: end + 1]


def _ends(event: Event, round_number: int) -> bool:
    # The result of `finish` is written after the end of the round that it causes.
    is_finish = isinstance(event, ToolCallEvent) and event.tool == "finish"
    return (is_finish or isinstance(event, RoundDoneEvent)) and event.round_number == round_number


def _free_name(home: Path, stem: str) -> str:
    return first_free(lambda n: folder_of(home, stem[:60] if n == 1 else f"{stem[:56]}-{n}")).name
