"""State and remaining budget of a session, read from its folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.brains import planner_of
from agent.config.settings import Settings
from agent.loop.schedule import schedule
from agent.session.control import Condition, condition
from agent.session.folder import SessionState, folder_of, state_of, stored_settings
from agent.session.limits import HOUR_S, Best, best_round
from agent.steering.preferences import active_preferences
from eval.delivery import Delivery
from eval.report.blocks import Cell, Line, Style, Table, schedule_text
from memory.events import (
    ChatCallEvent,
    EndedEvent,
    Event,
    FallbackEvent,
    ModelCallEvent,
    PlanEvent,
    RoundDoneEvent,
)
from memory.files import read_record
from memory.journal import read_events, rounds
from memory.records import Round
from prompts.printable import one_line

LOG, DELIVERY = "run.log", "delivery.json"
# Most characters of the reason for a fallback.
_REASON = 200
_STYLES: Mapping[str, Style] = {
    "running": "good",
    "finished": "good",
    "stuck": "error",
    "dead": "error",
}


class Status(NamedTuple):
    """Status of a session.

    Attributes:
        name: Name of the session.
        state: Its state.
        stage: Name of the current stage; "": none.
        score: Best score; None: no round is evaluated.
        rows: Names and values to display.
        delivery: Effect of the images; None: the session has not ended.
    """

    name: str
    state: SessionState
    stage: str
    score: Best | None
    rows: Sequence[tuple[str, str]]
    delivery: Delivery | None


def read_delivery(folder: Path) -> Delivery | None:
    """Return the delivery stored by the last report of a session; None: there is none."""
    return read_record(folder / DELIVERY, Delivery)


def read_status(home: Path, name: str) -> Status:
    """Return the status of a session; raises SettingsError if it does not exist."""
    settings, folder = stored_settings(home, name), folder_of(home, name)
    journal = folder / "journal.jsonl"
    events = read_events(journal) if journal.exists() else []
    past = rounds(events)
    now = condition(folder)
    state = state_of(now, events, settings.session.rounds)
    best, beat = best_round(past), now.heartbeat
    rows = [("session", name), ("state", state + _because(name, now, events, state))]
    if beat and state in ("running", "paused", "stuck", "dead"):
        where = f"{beat.stage}, round {beat.round}" if beat.round else beat.stage
        done = f", {beat.done} of {beat.total} {beat.unit}" if beat.total else ""
        rows.append(("stage", where + done))
        rows.append(("process", f"{beat.holder.pid} on {beat.holder.host}"))
        rows.append(("last sign of life", f"{beat.age_s():.0f} s ago"))
    last = next((r for r in reversed(past) if r.main_figure), None)
    if best and last and last.report and last.main_figure:
        value, name = last.main_figure.value, last.report.main_metric.replace("_", " ")
        figures = f"{value:.3f} in round {last.number}, best {best.score:.3f} in round {best.round}"
        rows.append((name, figures))
    worked_s, gpu_s = (beat.worked_s, beat.gpu_s) if beat else (0.0, 0.0)
    if decided := deciders(settings.brain, events):
        rows.append(("decided by", decided))
    planned = schedule(
        active_preferences(events), past, 1 + max((r.number for r in past), default=0)
    )
    if planned:
        rows.append(("schedule", f"round {min(planned)} on {schedule_text([*planned.values()])}"))
    rows += budget_rows(settings, events, past, worked_s, gpu_s)
    if (folder / LOG).exists():
        rows.append(("log", str(folder / LOG)))
    if (folder / "report.html").exists():
        rows.append(("report", str(folder / "report.html")))
    is_over = state in ("finished", "stopped")
    delivery = read_delivery(folder) if is_over else None
    return Status(name, state, beat.stage if beat else "", best, rows, delivery)


def deciders(brain: str, events: Sequence[Event]) -> str:
    """Return how many steps a language model and its fallback decided, with the last reason.

    Returns:
        The text; "" if the brain is a planner.
    """
    if planner_of(brain) is not None:
        return ""
    calls = [event for event in events if isinstance(event, ModelCallEvent)]
    counts = Counter(call.author for call in calls)
    parts = [f"{brain} {counts.pop(brain, 0)} of {len(calls)} steps"]
    parts += [f"{author} {n}" for author, n in counts.items()]
    plans = [event for event in events if isinstance(event, PlanEvent)]
    if n_taken := sum(plan.draft == "accept" for plan in plans):
        parts.append(f"{n_taken} of {len(plans)} plans as the policy drafted them")
    if retries := sum(call.retries for call in calls):
        parts.append(f"requests made again {retries}")
    reasons = [event.reason for event in events if isinstance(event, FallbackEvent)]
    text = ", ".join(parts)
    return f"{text}; the last time, as {one_line(reasons[-1], _REASON)}" if reasons else text


def budget_rows(
    settings: Settings,
    events: Sequence[Event],
    past: Sequence[Round],
    worked_s: float,
    gpu_s: float,
) -> list[tuple[str, str]]:
    """Return the spent and remaining rounds, images, time, tokens and money as display rows."""
    limits, llm = settings.limits, settings.llm
    n_done = sum(isinstance(event, RoundDoneEvent) for event in events)
    calls = [event for event in events if isinstance(event, ModelCallEvent | ChatCallEvent)]
    tokens = sum(call.tokens.total for call in calls)
    figures: list[tuple[str, float, float | None, str]] = [
        ("rounds", n_done, settings.session.rounds, ".0f"),
        ("images", sum(r.batch.n_made for r in past if r.batch), limits.max_images, ".0f"),
        ("hours", round(worked_s / HOUR_S, 3), limits.max_hours, ".3g"),
        ("GPU hours", round(gpu_s / HOUR_S, 3), limits.max_gpu_hours, ".3g"),
        ("tokens", tokens, llm.max_tokens, ".0f"),
        ("US dollars", sum(call.usd for call in calls), llm.max_usd, ".2f"),
    ]
    rows = []
    for name, spent, limit, form in figures:
        if limit is not None:
            left = max(0.0, limit - spent)
            rows.append((name, f"{spent:{form}} of {limit:{form}}, {left:{form}} left"))
        elif spent:
            rows.append((name, f"{spent:{form}}"))
    return rows


def table(status: Status) -> Table:
    """Return a table of the rows of a status."""
    style = _STYLES.get(status.state, "warning")
    rows: list[list[Cell]] = [
        [name, Line(value, style if name == "state" else "")] for name, value in status.rows
    ]
    return Table((), rows)


def _because(name: str, now: Condition, events: Sequence[Event], state: SessionState) -> str:
    beat = now.heartbeat
    if state in ("paused", "failed") and beat:
        return f": {beat.why}"
    if state == "stuck":
        return f". To go on: shaping stop --now {name}, then shaping resume {name}"
    if state == "dead":
        why = "killed, its disk full, or the machine switched off"
        return f" ({why}). To go on: shaping resume {name}"
    if state in ("stopped", "finished") and events and isinstance(events[-1], EndedEvent):
        return f": {events[-1].message}"
    return ""
