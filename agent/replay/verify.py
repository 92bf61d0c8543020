"""Runs a recorded session again, without its tools and models, and compares every message."""

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
    """One thing that is not as it was recorded; place: e.g. "journal.jsonl, line 7"."""

    place: str
    what: str
    recorded: str = ""
    replayed: str = ""


@dataclass(frozen=True)
class Verification:
    """What a replay found; `findings` is empty when all is identical.

    reworded: templates and tools that are worded otherwise by now; the session was run again with
    the texts that its journal holds.

    pictures: what a model that sees was shown.

    n_messages: to and from the brain; n_calls: of tools, none of which was executed; ended:
    whether the record ends with a round's end; torn: whether its last line is unfinished, which was
    left out.
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
    """Replay the journal at `path`: find changed lines, the first divergence, and reworded texts.

    Raises SessionError when the journal cannot be read or holds too little.
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
    """Yield the pictures that a model was shown, `recorded` where the file is another one."""
    for number, name, subject in shown_in(events):
        what, found = f"round {number}, {subject}", name
        if path := stored_picture(folder, name):
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            what += " (not stored any more)"
        if found == name:
            yield Finding(f"picture {name[:12]}", what)
        else:
            what += ": the file is not the one that was shown"
            yield Finding(f"picture {name[:12]}", what, name, found)


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
            # What is compared here was traced when it happened, if the user wanted that.
            with tracing_context(enabled=False):
                graph.invoke(new_round(number))
        except ShapingError as error:
            # The session itself ended by it: its journal must hold nothing more.
            if not journal.finished:
                journal.refuse(str(error))
            raise EndOfRecord from error
        progress(number)
        number += 1


def _reworded(head: HeadEvent, tools: Mapping[str, tuple[str, str]]) -> Iterator[Finding]:
    """Yield what is worded otherwise by now: templates, and tools by their names."""
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
