"""Trust in the commands and code paths that settings of sessions name.

A session folder may come from another person, and its settings can name a command, code and a
cluster. The ones that were given on this machine are recorded by digest outside of all homes and
sessions, in $XDG_STATE_HOME/feedback-shaping/trusted.json, so that a copied folder is not trusted.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from filelock import FileLock

from agent.config.settings import Settings
from memory.errors import StorageError, UntrustedSession
from memory.files import write_json
from memory.records import digest
from tools import plugins

# Settings whose texts may contain a colon but name no code.
_NO_CODE = ("brain", "preset", "weights")


class Instruction(NamedTuple):
    """A setting that makes this machine execute something.

    Attributes:
        kind: command: run in a shell; code: imported; cluster: its answers are unpickled.
        key: Dotted key of the setting.
        text: The command, dotted path, or address.
    """

    kind: Literal["command", "code", "cluster"]
    key: str
    text: str

    @property
    def mark(self) -> str:
        """Digest of kind and text; it does not depend on the key."""
        return digest([self.kind, self.text])


def instructions(settings: Settings) -> list[Instruction]:
    """Return the commands, code paths and clusters that settings name."""
    named = []
    if settings.session.on_finish:
        named.append(Instruction("command", "session.on_finish", settings.session.on_finish))
    if settings.compute.address:
        named.append(Instruction("cluster", "compute.place", settings.compute.place))
    values = settings.model_dump(mode="json", exclude={"session", "compute", "home"})
    named += [Instruction("code", key, path) for key, path in _code_paths(values, "")]
    return named


def untrusted(settings: Settings, stored: Settings) -> list[Instruction]:
    """Return the instructions of a session folder that were not given on this machine.

    Args:
        settings: The settings to run.
        stored: Settings of the folder; instructions that are not in them come from this command.
    """
    named = instructions(settings)
    if not named:
        return []
    held = {instruction.mark for instruction in instructions(stored)} - _recorded()
    return [instruction for instruction in named if instruction.mark in held]


def check(settings: Settings, stored: Settings, name: str) -> None:
    """Raise UntrustedSession if a session would execute untrusted instructions."""
    if unknown := untrusted(settings, stored):
        raise UntrustedSession(
            f"The session {name!r} executes what was not given on this machine:\n"
            f"{listed(unknown)}\n"
            "If you trust whoever made the session folder, add --trust once, e.g. shaping resume "
            f"{shlex.quote(name)} --trust. To see the session without running anything: shaping "
            f"replay {shlex.quote(name)}"
        )


def listed(named: list[Instruction]) -> str:
    """Return one line for each instruction."""
    # repr: control characters must not hide a part of a command in a terminal.
    return "\n".join(f"  {i.kind} {i.text!r} ({i.key})" for i in named)


def trust(settings: Settings) -> None:
    """Record the instructions of settings as given on this machine.

    Raises:
        StorageError: They cannot be recorded.
    """
    given = instructions(settings)
    plugins.allow(i.text for i in given if i.kind == "code")
    marks = {instruction.mark for instruction in given}
    if not marks or marks <= _recorded():
        return
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(path.with_suffix(".lock")):
            write_json(path, {"schema": 1, "sha256": sorted(_recorded() | marks)})
    except (OSError, StorageError) as error:
        raise StorageError(
            f"{path} cannot be written ({error}). It records the commands and code paths that "
            "were given on this machine; set XDG_STATE_HOME to a folder that can be written."
        ) from error


def mark_code(stored: Settings) -> None:
    """Forbid this process to import the code paths of a session folder unless they are trusted."""
    code = [i for i in instructions(stored) if i.kind == "code"]
    recorded = _recorded() if code else set()
    plugins.allow(i.text for i in code if i.mark in recorded)
    plugins.refuse(i.text for i in code if i.mark not in recorded)


def _code_paths(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the key and path of each text that `plugins.load` could import."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _code_paths(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _code_paths(inner, key)
    elif isinstance(value, str):
        is_planner = value.startswith("policy:")
        if key.rpartition(".")[2] in _NO_CODE and not is_planner:
            return
        # Tasks are joined by "+"; options follow the name of a planner.
        for part in value.removeprefix("policy:").split("+"):
            path = ":".join(word for word in part.split(":") if "=" not in word)
            if plugins.is_dotted_path(path):
                yield key, path


def _recorded() -> set[str]:
    try:
        return set(json.loads(_path().read_bytes())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "feedback-shaping" / "trusted.json"
