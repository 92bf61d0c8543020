"""Detection of changes in a user's images since the start of a session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from memory.errors import DataError
from memory.events import HeadEvent
from tools.targets import leakage, manifest

if TYPE_CHECKING:
    from agent.session.folder import Session
    from tools.targets import Target

CHANGED = "photographs changed"


def begin(session: Session, target: Target) -> None:
    """Record the images at the start of a session if they are a user's data set."""
    if session.settings.target.path is not None:
        manifest.write(session.folder, target)


def share(source: Path, folder: Path) -> None:
    """Copy the data manifest of the session in `source` to a fork."""
    if (source / manifest.FILE).is_file():
        shutil.copyfile(source / manifest.FILE, folder / manifest.FILE)


def check_folder(folder: Path, path: object, target: Target, task: str) -> None:
    """Record the images of a user's data set in `folder`, or compare them with the record.

    Args:
        folder: Folder of the record.
        path: Path of the data set, None for a built-in target.
        target: The target that reads it.
        task: Name of the work that uses the record, for messages.

    Raises:
        DataError: The images have changed.
    """
    if path is None:
        return
    before = manifest.read(folder)
    if before is None:
        manifest.write(folder, target)
    elif changes := manifest.changes_between(before, manifest.manifest_of(target)):
        moved = f"; {changes.n_moved} lie in another split" if changes.moved else ""
        raise DataError(
            f"The photographs in {path} are not those that {task} began with ({changes.summary()}"
            f"{moved}), so its figures could not be compared. Restore the earlier ones, or begin "
            "anew with another --name."
        )


def check(session: Session, target: Target, fault: Callable[[str, str], None]) -> None:
    """Compare the images with those of the last run before a session is resumed.

    Args:
        session: The session.
        target: Its target.
        fault: Called with a short name and a message if images changed but the session can go on.

    Raises:
        DataError: Images are in other splits, or the target has other classes or attributes:
            later figures would not be comparable, and sealed images could influence plans.
        WeightsError: The MTDM was trained on images that are used for measurements.
    """
    if session.settings.target.path is None:
        return
    before = manifest.read(session.folder)
    if before is None:  # a session of an earlier version
        begin(session, target)
        return
    now = manifest.manifest_of(target)
    changes = manifest.changes_between(before, now)
    words = _other_words(session, target)
    if changes.moved or words:
        table = manifest.write_splits(session.folder, before, now) if changes.moved else None
        raise DataError(_refusal(session, changes, words, table))
    generator = session.settings.generator
    if generator.name == "mtdm" and generator.weights:
        leakage.check(Path(generator.weights).parent, target)
    if changes:
        message = (
            f"Photographs have changed since the session was last worked on ({changes.summary()}). "
            "It goes on with those of now: figures from here on are of other photographs than "
            "those before, and a difference between them may come from that."
        )
        fault(CHANGED, message)
        manifest.write(session.folder, target)


def _other_words(session: Session, target: Target) -> str:
    """Return a sentence about changed classes or attributes since the start, "" for none."""
    head = session.journal.get("session", HeadEvent)
    if head is None:
        return ""
    attributes = list(target.vocabulary.attributes)
    for name, before, now in (
        ("classes", list(head.class_names), list(target.class_names)),
        ("attributes", list(head.vocabulary.get("attributes", {})), attributes),
    ):
        if before and before != now:
            return f"Their {name} were {', '.join(before)}, and are {', '.join(now)} now."
    return ""


def _refusal(session: Session, changes: manifest.Changes, words: str, table: Path | None) -> str:
    path = str(session.settings.target.path)
    sentences = [
        f"The photographs in {path} are not those that the session {session.name!r} "
        f"worked with ({changes.summary()})."
    ]
    if changes.moved:
        shown = any("test" in pair for pair in changes.moved)
        sealed = ", and the agent would plan by photographs that were sealed" if shown else ""
        sentences.append(
            f"The splits were assigned anew, so {changes.n_moved} photographs lie in another one "
            f"({changes.moves()}): figures could not be compared with those before{sealed}."
        )
    sentences += [words] if words else []
    sentences.append("Restore the earlier photographs, or begin another session with --session.")
    if table and session.settings.target.name == "folder":
        sentences.append(
            f"Or keep the splits: copy {table} to {Path(path, 'attributes.csv')}, or its "
            "column split into the one there. What came since stands in generator there, where "
            "nothing is measured."
        )
    return " ".join(sentences)
