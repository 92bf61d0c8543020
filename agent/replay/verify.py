"""Verification of a record: the session runs again without tools and models, event by event."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from langsmith import tracing_context

from agent.loop.context import prompt_files
from agent.loop.eyes import shown_in, stored_picture
from agent.loop.graph import build_graph
from agent.loop.stages import run_baseline
from agent.loop.state import new_round
from agent.replay.recorded import RecordedBrain, RecordedEffects, RecordedSession
from agent.replay.recorded_journal import Divergence, EndOfRecord
from memory.chain import changed_lines
from memory.errors import ShapingError
from memory.events import (
    Event,
    HeadEvent,
    IllegalCallEvent,
    ModelCallEvent,
    RoundDoneEvent,
    ToolCallEvent,
)
from memory.journal import head_of, read_events


@dataclass(frozen=True)
class Finding:
    """A difference to the record; place: e.g. "journal.jsonl, line 7"."""

    place: str
    what: str
    recorded: str = ""
    replayed: str = ""


@dataclass(frozen=True)
class Verification:
    """The result of a replay.

    Attributes:
        session: Name of the session.
        n_rounds: Number of finished rounds.
        n_messages: Number of messages to and from the brain.
        n_calls: Number of tool calls, none of which was executed.
        n_events: Number of replayed events.
        ended: Whether the record ends with the end of a round.
        torn: Whether the record has an unfinished last line, which was ignored.
        findings: Differences to the record; () if the replay is identical.
        reworded: Templates and tools whose wording has changed since; the replay used the recorded
            texts.
        pictures: Pictures that a vision model was shown.
    """

    session: str
    n_rounds: int
    n_messages: int
    n_calls: int
    n_events: int
    ended: bool
    torn: bool
    findings: tuple[Finding, ...]
    reworded: tuple[Finding, ...]
    pictures: tuple[Finding, ...] = ()


def verify(path: Path, progress: Callable[[int], None] = lambda round_number: None) -> Verification:
    """Replay the journal at `path` and report changed lines, the first divergence and rewording.

    progress: called with the number of each finished round. Raises SessionError if the journal
    cannot be read or its version cannot be replayed.
    """
    everything = read_events(path, undone=True)
    head = head_of(everything)
    findings = [
        Finding(
            f"{path.name}, line {n}",
            f"{_name(everything[n - 1])} is not as it was written (its checksum does not fit)",
        )
        for n in changed_lines(path)
    ]
    pictures = tuple(_pictures(path.parent, everything))
    findings += [picture for picture in pictures if picture.recorded]
    session = RecordedSession(everything)
    effects = RecordedEffects(session)
    ended = True
    try:
        _run(session, effects, progress)
    except Divergence as divergence:
        findings.append(
            Finding(
                f"{path.name}, line {divergence.line}",
                f"{_name(divergence.event)}: {divergence.where} differs",
                divergence.recorded,
                divergence.replayed,
            )
        )
    except EndOfRecord:
        ended = False
    done = session.journal.shown
    calls = [e for e in done if isinstance(e, ModelCallEvent)]
    return Verification(
        session=session.name,
        n_rounds=sum(isinstance(e, RoundDoneEvent) for e in done),
        n_messages=sum(len(e.messages) + 1 for e in calls),
        n_calls=sum(isinstance(e, ToolCallEvent | IllegalCallEvent) for e in done),
        n_events=len(done),
        ended=ended,
        torn=not path.read_bytes().endswith(b"\n"),
        findings=tuple(findings),
        reworded=tuple(_reworded(head, effects.reworded)),
        pictures=pictures,
    )


def _pictures(folder: Path, events: Sequence[Event]) -> Iterator[Finding]:
    """Yield the pictures that a model was shown, with `recorded` set if the file has changed."""
    for number, name, subject in shown_in(events):
        description, actual = f"round {number}, {subject}", name
        if path := stored_picture(folder, name):
            actual = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            description += " (not stored any more)"
        if actual == name:
            yield Finding(f"picture {name[:12]}", description)
        else:
            description += ": the file is not the one that was shown"
            yield Finding(f"picture {name[:12]}", description, name, actual)


def _run(
    session: RecordedSession, effects: RecordedEffects, progress: Callable[[int], None]
) -> None:
    journal = session.journal
    brain, stand_in = RecordedBrain(journal), RecordedBrain(journal, stands_in=True)
    graph = build_graph(session, effects, brain, stand_in)
    run_baseline(journal, effects)
    number = 1
    while not journal.finished:
        try:
            # The original run was traced already, if tracing was enabled.
            with tracing_context(enabled=False):
                graph.invoke(new_round(number))
        except ShapingError as error:
            # The original session ended with this error, so its journal must end here.
            if not journal.finished:
                journal.refuse(str(error))
            raise EndOfRecord from error
        progress(number)
        number += 1


def _reworded(head: HeadEvent, tools: Mapping[str, tuple[str, str]]) -> Iterator[Finding]:
    """Yield the templates and tools whose wording has changed since."""
    current = prompt_files()
    texts = {
        f"prompts/{name}.md": (text, current.get(name, "")) for name, text in head.templates.items()
    }
    texts |= {f"tools/{name}": both for name, both in sorted(tools.items())}
    for place, (recorded, now) in texts.items():
        if now != recorded:
            line, column = _first_change(recorded, now)
            change = f"reworded since, first in line {line}, column {column}"
            yield Finding(place, change, recorded, now)


def _first_change(old: str, new: str) -> tuple[int, int]:
    """Return line and column, from 1, of the first character that differs."""
    same = len(os.path.commonprefix([old, new]))  # noqa: RUF071 (of characters)
    before = old[:same]
    return before.count("\n") + 1, same - (before.rfind("\n") + 1) + 1


def _name(event: Event) -> str:
    return event.key or event.kind
