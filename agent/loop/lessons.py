"""What a round has taught: credit for its prompts, a verdict on its hypothesis, and a lesson."""

from __future__ import annotations

from agent.loop.observations import rounds_before
from agent.loop.state import SessionView
from eval.credit import credit, settle
from eval.report.blocks import verdict_text
from memory.records import Lesson, Report


def learn(session: SessionView, report: Report) -> None:
    """Journal the credits of a measured round and, where its plan had a hypothesis, what it showed.

    Nothing is journaled twice.
    """
    number = report.round
    current = session.journal.round(number)
    assert current is not None and current.plan is not None and current.batch is not None
    reports = [r.report for r in rounds_before(session.journal, number) if r.report]
    before = reports[-1] if reports else None
    credits_ = credit(current.plan, current.batch, before, report)
    session.journal.append(
        "credits",
        key=f"credits/{number}",
        round=number,
        credits=[c.to_json() for c in credits_],
    )
    if current.plan.hypothesis is None:
        return
    verdict = settle(current.plan.hypothesis, before, report)
    session.journal.append(
        "verdict", key=f"verdict/{number}", round=number, verdict=verdict.to_json()
    )
    lesson = Lesson(
        id=f"{session.name}/{number}",
        round=number,
        text=f"{current.plan.why} {verdict_text(verdict)}"[:600],
        slice=verdict.hypothesis.slice,
        held=verdict.held,
    )
    session.journal.append("lesson", key=f"lesson/{number}", lesson=lesson.to_json())
