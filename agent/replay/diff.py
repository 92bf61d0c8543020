"""Differences of two sessions: settings, plans, figures, costs, first differing decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from agent.config.settings import differences
from agent.replay.trace import read_session
from agent.session.folder import stored_settings
from eval.agreement import agreement
from eval.report.text import duration, number, signed
from eval.tables import tables
from memory.events import Event, ModelCallEvent
from memory.journal import rounds
from memory.records import Round

COLUMNS = (
    "round", "score A", "score B", "B - A", "kept A / B", "same images", "hypotheses A / B",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """The differences of two sessions.

    Attributes:
        settings: A line per setting that differs.
        rows: A row per round, see COLUMNS.
        totals: Rows of a name and the totals of both sessions.
        parts: The first decision that differs, as a sentence.
    """

    settings: list[str]
    rows: list[list[str]]
    totals: list[list[str]]
    parts: str


def compare_sessions(home: Path, one: str, other: str) -> Difference:
    """Compare two sessions; raises SettingsError for an unknown name."""
    names = (one, other)
    settings = [stored_settings(home, name) for name in names]
    events = [read_session(home, name) for name in names]
    past = [{r.number: r for r in rounds(one_session)} for one_session in events]
    numbers = sorted(past[0].keys() | past[1].keys())
    audited = [one.audit.method != "none" for one in settings]
    rows = [_row(n, (past[0].get(n), past[1].get(n)), audited) for n in numbers]
    changed = [
        line
        for line in differences(*settings)
        if not line.startswith(("session.name:", "home:", "preset:"))
    ]
    return Difference(changed, rows, _totals(events), _parts(*events))


def _row(n: int, both: tuple[Round | None, Round | None], audited: Sequence[bool]) -> list[str]:
    before, after = scores = [r.main_figure if r else None for r in both]
    change = signed(after.value - before.value) if before and after else ""
    plans = [r.plan for r in both if r and r.plan]
    return [
        str(n),
        *(number(score.value) if score else "-" for score in scores),
        change,
        " / ".join(_kept(r) if by else "-" for r, by in zip(both, audited, strict=True)),
        number(agreement(*plans).overlap, 2) if len(plans) == 2 else "-",
        " / ".join(_held(r) for r in both),
    ]


def _kept(r: Round | None) -> str:
    batch = r.batch if r else None
    return number(batch.n_kept / batch.n_made, 2) if batch and batch.n_made else "-"


def _held(r: Round | None) -> str:
    if r is None or r.verdict is None:
        return "-"
    return {True: "held", False: "not", None: "?"}[r.verdict.held]


def _totals(events: list[list[Event]]) -> list[list[str]]:
    columns = []
    for one_session in events:
        rows = tables(one_session)
        calls = rows["calls"]
        legal = sum(call["outcome"] == "legal" for call in calls)
        columns.append(
            [
                str(sum(row["n_images"] or 0 for row in rows["rounds"])),
                f"{legal} of {len(calls)}",
                str(sum(row["n_fallbacks"] for row in rows["rounds"])),
                str(sum(c["prompt_tokens"] + c["answer_tokens"] for c in calls)),
                duration(sum(row["seconds"] for row in rows["costs"])),
            ]
        )
    names = ("images", "legal calls", "fallbacks", "tokens", "time")
    return [[name, *pair] for name, *pair in zip(names, *columns, strict=True)]


def _parts(one: list[Event], other: list[Event]) -> str:
    """Return the first decision that differs as a sentence."""
    calls = [[e for e in events if isinstance(e, ModelCallEvent)] for events in (one, other)]
    for a, b in zip_longest(*calls):
        if a is None or b is None:
            longer = "B" if a is None else "A"
            return f"All common decisions are the same; {longer} has more."
        if _decision(a) != _decision(b):
            tools = [", ".join(c.name for c in e.answer.tool_calls) or "words" for e in (a, b)]
            return f"They first differ in round {a.round}, phase {a.phase}: {' / '.join(tools)}."
    return "Every decision is the same."


def _decision(event: ModelCallEvent) -> object:
    calls = [(call.name, call.args) for call in event.answer.tool_calls]
    return calls or event.answer.content
