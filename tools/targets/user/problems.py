"""What is wrong with a user's data, collected so that one message names and counts all of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory.errors import DataError, some
from prompts.render import quote

_SHOWN = 3
_NAME = 60


@dataclass
class Problems:
    """Faults stop the reading; notes are of what was left out or read in another way.

    Both are kept as "what is wrong" -> names of the files, or of whatever has it.
    """

    faults: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def fault(self, what: str, name: str | None = None) -> None:
        """Add a fault, or a name to those that have it; `what` says what to do about it."""
        self.faults.setdefault(what, []).extend([] if name is None else [name])

    def note(self, what: str, name: str | None = None) -> None:
        """Add a note, or a name to those that it is about."""
        self.notes.setdefault(what, []).extend([] if name is None else [name])

    def stop(self, data: str) -> None:
        """Raise DataError that names all faults, and the notes with them, if there is a fault."""
        if self.faults:
            lines = [*_say(self.faults), *(f"(also) {line}" for line in _say(self.notes))]
            raise DataError("\n- ".join([f"The data {data} cannot be used:", *lines]))

    def said(self) -> list[str]:
        """Return each note in a line, with its count and a few names."""
        return _say(self.notes)

    def listed(self) -> str:
        """Return all notes with all names, one a line."""
        return "".join(
            f"{what} ({len(names)}):\n" + "".join(f"  {name}\n" for name in sorted(names))
            if names
            else f"{what}\n"
            for what, names in self.notes.items()
        )


def _say(problems: dict[str, list[str]]) -> list[str]:
    lines = []
    for what, names in problems.items():
        if not names:
            lines.append(what)
            continue
        different = [quote(name, _NAME) for name in sorted(set(names))]
        lines.append(f"{what} ({len(names)}): {some(different, _SHOWN)}")
    return lines
