"""A session as tidy tables: one row per round, prompt, slice, call, cost and group of images.

Every row names its session, so tables of several sessions can be concatenated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eval.likeness import Likeness
from memory.events import (
    Event,
    IllegalCallEvent,
    ModelCallEvent,
    OpeningEvent,
    PlanEvent,
    Tokens,
    ToolCallEvent,
)
from memory.journal import find_head, name_of, rounds
from memory.records import Report, Round

Row = dict[str, Any]

_INTEGERS = (
    "round", "n_prompts", "n_images", "n_allowed", "n_kept", "n_failures", "n_fallbacks", "count",
    "n_made", "n", "prompt_tokens", "answer_tokens", "tokens", "n_real",
)  # fmt: skip
_NUMBERS = (
    "effective_size", "mean_weight", "score", "score_low", "score_high", "expected_change",
    "measured_change", "seconds",
    "expected_kept_rate", "accuracy", "low", "high", "change", "change_per_100", "usd",
    "decision_s", "tool_s", "kid", "cmmd", "density", "coverage", "coverage_low", "coverage_high",
    "expected_coverage", "vendi", "vendi_real",
)  # fmt: skip
_TYPES = {**dict.fromkeys(_INTEGERS, int), **dict.fromkeys(_NUMBERS, float), "held": bool}
_NAMES = {
    "rounds": (
        "session", "round", "brain", "author", "n_prompts", "draft", "n_images", "n_allowed",
        "n_kept", "effective_size", "metric", "score", "score_low", "score_high", "worst_slice",
        "n_failures",
        "hypothesis", "expected_change", "measured_change", "held", "n_fallbacks", "seconds",
    ),
    "prompts": (
        "session", "round", "prompt", "text", "class_name", "attributes", "count", "n_made",
        "n_kept", "mean_weight", "expected_kept_rate", "why",
    ),
    "slices": (
        "session", "round", "slice", "accuracy", "low", "high", "n", "change", "expected_change",
    ),
    "credits": ("session", "round", "prompt", "slice", "n_images", "change_per_100"),
    "calls": (
        "session", "round", "phase", "author", "tool", "outcome", "problem", "prompt_tokens",
        "answer_tokens", "usd", "decision_s", "tool_s", "time",
    ),
    "costs": ("session", "round", "stage", "seconds", "tokens", "usd"),
    "likeness": (
        "session", "slice", "encoder", "n_real", "n_images", "kid", "cmmd", "density", "coverage",
        "coverage_low", "coverage_high", "expected_coverage", "vendi", "vendi_real",
    ),
}  # fmt: skip
# Types of the columns of each table, in the order of the columns; unknown values are None.
COLUMNS: Mapping[str, Mapping[str, type]] = {
    table: {name: _TYPES.get(name, str) for name in names} for table, names in _NAMES.items()
}


def tables(events: Sequence[Event]) -> dict[str, list[Row]]:
    """Return the rows of the tables of COLUMNS; none without an event `session`.

    The rows of `likeness` are not in the journal, see `likeness_rows`.
    """
    rows: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    if (head := find_head(events)) is None:
        return rows
    session, brain = name_of(head, events), str(head.settings["brain"])
    plans = {e.plan.round: e for e in events if isinstance(e, PlanEvent)}
    allowed = {e.round: e.facts.get("n_images") for e in events if isinstance(e, OpeningEvent)}
    previous: Report | None = None
    for current in rounds(events):
        where = {"session": session, "round": current.number}
        event = plans.get(current.number)
        expected = event.expectation if event else {}
        draft, n_allowed = event.draft or None if event else None, allowed.get(current.number)
        rows["rounds"].append(
            _round(current, **where, brain=brain, draft=draft, n_allowed=n_allowed)
        )
        rows["prompts"] += _prompts(current, expected, where)
        rows["slices"] += _slices(current, previous, expected, where)
        rows["credits"] += [
            _row("credits", credit, **where, prompt=credit.prompt_id) for credit in current.credits
        ]
        rows["costs"] += [
            where | {"stage": stage, "seconds": seconds, "tokens": 0, "usd": 0.0}
            for stage, seconds in current.seconds.items()
        ]
        previous = current.report or previous
    rows["calls"] = _calls(events, session)
    rows["costs"] += _decisions(session, rows["calls"])
    return rows


def likeness_rows(session: str, groups: Sequence[Likeness]) -> list[Row]:
    """Return the rows of the table `likeness`: similarity of a session's images to photographs."""
    return [
        _row(
            "likeness",
            one,
            session=session,
            slice=one.group,
            n_images=one.n_generated,
            kid=one.kid.value,
            cmmd=one.cmmd.value,
            coverage=one.coverage.value,
            coverage_low=one.coverage.low,
            coverage_high=one.coverage.high,
        )
        for one in groups
    ]


def _row(table: str, record: object, **given: Any) -> Row:
    """Return a row of a table from given values, else fields of the record, else None."""
    return {
        name: given[name] if name in given else getattr(record, name, None)
        for name in COLUMNS[table]
    }


def _round(current: Round, **given: Any) -> Row:
    plan, report, verdict = current.plan, current.report, current.verdict
    hypothesis, score = plan.hypothesis if plan else None, current.main_figure
    return _row(
        "rounds",
        plan,
        n_prompts=len(plan.prompts) if plan else None,
        n_kept=current.batch.n_kept if current.batch else None,
        effective_size=current.training.effective_size if current.training else None,
        metric=report.main_metric if report else None,
        score=score.value if score else None,
        score_low=score.low if score else None,
        score_high=score.high if score else None,
        worst_slice=report.worst_slice if report else None,
        n_failures=sum(f.significant for f in current.failures),
        hypothesis=hypothesis.slice if hypothesis else None,
        expected_change=hypothesis.expected_change if hypothesis else None,
        measured_change=verdict.change if verdict else None,
        held=verdict.held if verdict else None,
        n_fallbacks=current.fallbacks,
        seconds=sum(current.seconds.values()),
        **given,
    )


def _prompts(current: Round, expected: Mapping[str, Any], where: Row) -> list[Row]:
    rates = {p["prompt_id"]: p["kept_rate"] for p in expected.get("prompts", ())}
    quality = {q.prompt_id: q for q in current.batch.quality} if current.batch else {}
    audited = ("n_made", "n_kept", "mean_weight")
    return [
        _row(
            "prompts",
            p,
            **where,
            prompt=p.id,
            attributes=json.dumps(p.attributes, sort_keys=True),
            expected_kept_rate=rates.get(p.id),
            **{name: getattr(quality.get(p.id), name, None) for name in audited},
        )
        for p in (current.plan.prompts if current.plan else ())
    ]


def _slices(
    current: Round, previous: Report | None, expected: Mapping[str, Any], where: Row
) -> list[Row]:
    before = {s.key: s.accuracy.value for s in previous.slices} if previous else {}
    gains = {s["slice"]: s["benefit"] + s["harm"] for s in expected.get("slices", ())}
    return [
        _row(
            "slices",
            s.accuracy,
            **where,
            slice=s.key,
            accuracy=s.accuracy.value,
            change=s.accuracy.value - before[s.key] if s.key in before else None,
            expected_change=gains.get(s.key),
        )
        for s in (current.report.slices if current.report else ())
    ]


def _calls(events: Sequence[Event], session: str) -> list[Row]:
    """Return one row per tool call, legal or illegal; an answer without a call is illegal."""
    rows: list[Row] = []
    for event in events:
        if isinstance(event, ModelCallEvent):
            tokens, usd, decision_s = event.tokens, event.usd, event.seconds
        if not isinstance(event, ToolCallEvent | IllegalCallEvent):
            continue
        problem = event.problem if isinstance(event, IllegalCallEvent) else None
        rows.append(
            _row(
                "calls",
                event,
                session=session,
                outcome="legal" if problem is None else "illegal",
                problem=problem,
                prompt_tokens=tokens.prompt,
                answer_tokens=tokens.answer,
                usd=usd,
                decision_s=decision_s,
                tool_s=event.seconds if isinstance(event, ToolCallEvent) else 0.0,
            )
        )
        # The cost of an answer is counted with the first of its calls.
        tokens, usd, decision_s = Tokens(prompt=0, answer=0), 0.0, 0.0
    return rows


def _decisions(session: str, calls: Sequence[Row]) -> list[Row]:
    """Return the costs of the stage `decide` by round."""
    rows: dict[int, Row] = {}
    for call in calls:
        number = call["round"]
        empty = {"stage": "decide", "seconds": 0.0, "tokens": 0, "usd": 0.0}
        row = rows.setdefault(number, {"session": session, "round": number} | empty)
        row["seconds"] += call["decision_s"]
        row["tokens"] += call["prompt_tokens"] + call["answer_tokens"]
        row["usd"] += call["usd"]
    return list(rows.values())
