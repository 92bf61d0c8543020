"""Pictures of failures for vision-language models, shown with the consent of the user.

Messages, checkpoints and the journal refer to a picture by its SHA-256; the file is stored as
rounds/NNN/seen/SHA256.png and is only inserted into the messages that are sent to the model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage

from agent.brains.sight import SIGHT, image_block, text_block
from agent.brains.spending import PICTURES
from agent.loop.state import SessionView
from memory.errors import ToolError, unknown
from memory.events import Event, OpeningEvent, ProbeEvent, ToolCallEvent
from memory.files import write_bytes
from memory.records import Failure, Report, Round

if TYPE_CHECKING:
    from tools.targets import Target


class Subject(NamedTuple):
    """The subject of a picture, as arguments of `tools.look_at.look_at`."""

    name: str
    where: dict[str, str]
    members: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


class Look(NamedTuple):
    """A description of a picture and its SHA-256; `pictures` is empty if there is no picture."""

    text: str
    pictures: tuple[str, ...] = ()


def picture_tokens(session: SessionView) -> int | None:
    """Return the number of tokens per picture; None if the model must not be shown any."""
    if not session.settings.llm.images:
        return None
    event = session.journal.get(SIGHT, ProbeEvent)
    return event.probe["picture_tokens"] if event else None


def references(pictures: Sequence[str], n_tokens: int | None) -> dict[str, Any]:
    """Return the `additional_kwargs` of a message that refer to its pictures."""
    listed = [{"sha256": name, "tokens": n_tokens or 0} for name in pictures]
    return {PICTURES: listed} if listed else {}


def pictures_of(message: AnyMessage) -> tuple[str, ...]:
    """Return the SHA-256 of a message's pictures."""
    return tuple(one["sha256"] for one in message.additional_kwargs.get(PICTURES, ()))


def with_pictures(
    messages: Sequence[AnyMessage], read: Callable[[str], bytes | None]
) -> list[AnyMessage]:
    """Return the messages with their pictures as content blocks.

    Pictures of tool results follow in a user message, since OpenAI's protocol allows images only
    there. Pictures that are no longer stored are left out.

    Args:
        messages: Messages of a round, with references to pictures.
        read: Returns a PNG file by its SHA-256, or None.
    """
    shown: list[AnyMessage] = []
    waiting: list[dict[str, Any]] = []
    for message in [*messages, None]:
        if waiting and not isinstance(message, ToolMessage):
            shown.append(HumanMessage([text_block("What the tool shows:"), *waiting]))
            waiting = []
        if message is None:
            break
        blocks = [image_block(data) for name in pictures_of(message) if (data := read(name))]
        if isinstance(message, ToolMessage):
            waiting += blocks
        elif blocks:
            message = HumanMessage([text_block(str(message.content)), *blocks])
        shown.append(message)
    return shown


def subject_of(slice_: str, prompt: str, past: Sequence[Round]) -> Subject:
    """Return the subject that a brain asks to see.

    Args:
        slice_: Name of a slice, or of a cluster or direction of the last report, "" for none.
        prompt: Id or text of a prompt of an earlier round, "" for none.
        past: The rounds so far.

    Raises:
        ToolError: Both or neither are given, or there is no such slice or prompt.
    """
    prompts = [p for r in past if r.plan for p in r.plan.prompts]
    if bool(slice_) == bool(prompt):
        raise ToolError("Name either a slice or a prompt.")
    if prompt:
        for one in reversed(prompts):
            if prompt in (one.id, one.text):
                return Subject(one.text, one.attributes, (), (one.id,))
        raise ToolError(unknown("prompt", prompt, [p.id for p in prompts][-30:]))
    measured = next(r for r in reversed(past) if r.report)
    assert measured.report is not None
    where = {score.key: score.attributes for score in measured.report.slices}
    for failure in measured.failures:
        if failure.slice == slice_ and failure.kind != "slice":
            near = tuple(p.id for p in prompts if p.text in failure.prompts)
            return Subject(failure.words, {}, failure.members, near)
        where.setdefault(failure.slice, failure.attributes)
    if slice_ not in where:
        raise ToolError(unknown("slice", slice_, list(where)))
    values = where[slice_]
    of_slice = tuple(p.id for p in prompts if values.items() <= p.attributes.items())
    return Subject(slice_, values, (), of_slice)


def worst(report: Report | None, failures: Sequence[Failure]) -> str:
    """Return the worst slice, a picture of which opens the round; "" before any report."""
    if report is None or not report.slices:
        return ""
    failing = [f.slice for f in failures if f.significant]
    scores = sorted(report.slices, key=lambda score: score.accuracy.value)
    return failing[0] if failing else scores[0].key


def look(
    folder: Path, target: Target, past: Sequence[Round], round_number: int, subject: Subject
) -> Look:
    """Draw a picture from the last report of `past` and store it in the folder of a round."""
    from tools.look_at import look_at

    number = next(r.number for r in reversed(past) if r.report)
    shown = look_at(number, folder, target, past, *subject)
    name = hashlib.sha256(shown.png).hexdigest()
    path = picture_path(folder, round_number, name)
    if not path.exists():
        write_bytes(path, shown.png)
    return Look(shown.text, (name,))


def picture_path(folder: Path, round_number: int, sha256: str) -> Path:
    """Return the path of a picture that is shown in a round."""
    return folder / "rounds" / f"{round_number:03d}" / "seen" / f"{sha256}.png"


def stored_picture(folder: Path, sha256: str) -> Path | None:
    """Return the file of a picture that was shown in any round, including undone ones, or None."""
    return next(folder.glob(f"rounds/*/seen/{sha256}.png"), None)


def read_picture(folder: Path, sha256: str) -> bytes | None:
    """Return a picture that was shown; None if it is missing or does not match its SHA-256."""
    path = stored_picture(folder, sha256)
    data = path.read_bytes() if path else b""
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def shown_in(events: Sequence[Event]) -> Iterator[tuple[int, str, str]]:
    """Yield the round, SHA-256 and subject of each picture that a model was shown."""
    for event in events:
        if isinstance(event, OpeningEvent | ToolCallEvent):
            asked = event.arguments if isinstance(event, ToolCallEvent) else {"": "the worst slice"}
            for name in event.images:
                # A journal may come from somebody else.
                if re.fullmatch(r"[0-9a-f]{64}", name):
                    yield event.round, name, " ".join(map(str, asked.values()))
