"""The report page of a session, built from its records; the layout is in page.html.j2."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from eval.copies import Copies
from eval.decisions import Decisions, legal_share
from eval.delivery import Delivery
from eval.report import session_charts, text
from eval.report.blocks import (
    Cell,
    Line,
    Part,
    Picture,
    Rate,
    Table,
    failure_table,
    levers_text,
)
from eval.report.charts import BeforeAfter, whisker_bar
from eval.report.delivery import delivery_blocks
from eval.report.templates import render_page
from memory.records import Credit, Estimate, Failure, Report, Round, Verdict, slice_key

_COUNTED_EVENTS = (
    ("fault", "fault was dealt with", "faults were dealt with"),
    ("resumed", "resume", "resumes"),
    ("paused", "pause", "pauses"),
    ("fallback", "fallback to the policy", "fallbacks to the policy"),
)

# Keys of an event, as in journals, with its title and with its message.
_TITLES, _MESSAGES = ("what", "rule", "phase"), ("told", "reason")


@dataclass(frozen=True)
class ReportData:
    """The data of a report. The same data give the same bytes.

    Attributes:
        session: name of the session.
        settings: resolved settings.
        notice: licence notice of the target.
        rounds: rounds in order; parts that are None are shown as missing.
        sealed: reports on the test split.
        prompt_montages: PNG bytes by prompt id.
        failure_montages: PNG bytes by failure id.
        legend: PNG bytes of a legend for the colours of labels in the montages.
        events: journal events to list (faults, pauses, fallbacks, resumes, end).
        decisions: statistics of the brain's decisions by round.
        preferences: preferences of the users and their outcome.
        reproduce: command lines that reproduce the session, in order.
        delivery: the delivered round and the effect of the images; None: nothing to compare.
        likeness: similarity of images to photographs; None: unknown.
        copies: near copies among the images with a picture of the closest pairs; None: unknown.
    """

    session: str
    settings: Mapping[str, Any]
    notice: str
    rounds: Sequence[Round]
    sealed: Sequence[Report] = ()
    prompt_montages: Mapping[str, bytes] = field(default_factory=dict)
    failure_montages: Mapping[str, bytes] = field(default_factory=dict)
    legend: bytes | None = None
    events: Sequence[Mapping[str, Any]] = ()
    decisions: Sequence[Decisions] = ()
    preferences: Table | None = None
    reproduce: Sequence[str] = ()
    delivery: Delivery | None = None
    likeness: Table | None = None
    copies: tuple[Copies, bytes] | None = None


@dataclass(frozen=True)
class FailureCard:
    """A failure as measured in `round`, and the rounds in which it was significant."""

    failure: Failure
    round: int
    rounds: tuple[int, ...]
    montage: bytes | None


def build_report_html(data: ReportData) -> str:
    """Return the report as an HTML page without scripts or external requests; text is escaped."""
    rounds = data.rounds
    reports = {r.number: r.report for r in rounds if r.report}
    metric = session_charts.main_metric([*reports.values(), *data.sealed])
    feedback = {n: r.metrics[metric] for n, r in reports.items() if metric in r.metrics}
    sealed = {r.round: r.metrics[metric] for r in data.sealed if metric in r.metrics}
    slices = session_charts.worst_slices(list(reports.values()))
    now, earlier = failure_cards(rounds, data.failure_montages)
    name, score = text.words(metric), _score_name(data.settings)
    dropped = [card.failure for card in now if not card.failure.significant]
    audited = _is_audited(data.settings)
    return render_page(
        "page.html.j2",
        data=data,
        delivery=delivery_blocks(data.delivery) if data.delivery else None,
        metric=name,
        score=score,
        feedback=feedback,
        sealed=dict(sorted(sealed.items())),
        worst=[r.worst.accuracy for r in reports.values() if r.worst],
        n_prompts=sum(len(r.plan.prompts) for r in rounds if r.plan),
        n_made=sum(r.batch.n_made for r in rounds if r.batch),
        n_kept=sum(r.batch.n_kept for r in rounds if r.batch),
        audited=audited,
        seconds=sum(chain.from_iterable(r.seconds.values() for r in rounds)),
        unfinished=unfinished_round(rounds),
        resume=f"shaping resume {shlex.quote(data.session)}",
        score_chart=session_charts.score_chart(rounds, feedback, sealed, name),
        rounds_table=_rounds_table(rounds, feedback, sealed, audited),
        composition_charts=session_charts.composition_charts(rounds),
        slice_rounds=list(reports),
        slice_chart=session_charts.slice_chart(slices, list(reports.values()), score),
        slice_table=_slice_table(slices, list(reports)),
        prompt_tables={
            r.number: _prompt_table(r, rounds, data.prompt_montages, audited)
            for r in rounds
            if r.plan
        },
        levers_text=levers_text,
        failures=[card for card in now if card.failure.significant],
        dropped_failures=failure_table(dropped, max(reports)) if dropped else None,
        earlier_failures=earlier,
        whisker_bar=whisker_bar,
        hypotheses=_hypothesis_table(rounds),
        time_chart=session_charts.time_chart(rounds),
        time_table=_time_table(rounds),
        legal_share=legal_share(data.decisions),
        decisions=_decision_table(data.decisions),
        outcome=outcome(data.events),
        events=_event_table(data.events),
        settings=Table(("Setting", "Value"), list(flat(data.settings)), keys=("Setting", "Value")),
    )


def unfinished_round(rounds: Sequence[Round]) -> dict[str, Any] | None:
    """Return the finished stages and the next stage of the last round; None if it is complete."""
    if not rounds or rounds[-1].report:
        return None
    last = rounds[-1]
    stages: dict[str, object] = {"planned": last.plan, "generated": last.batch}
    stages = (stages if last.number else {}) | {"trained": last.training}
    done = [name for name, part in stages.items() if part]
    todo = [name for name, part in stages.items() if not part]
    return {"round": last.number, "done": done, "next": (*todo, "evaluated")[0]}


def failure_cards(
    rounds: Sequence[Round], montages: Mapping[str, bytes]
) -> tuple[list[FailureCard], list[FailureCard]]:
    """Return the failures of the last report, and earlier significant ones that no longer are.

    The latter are shown as measured when they were last significant.
    """
    last = max((r.number for r in rounds if r.report), default=0)
    significant: dict[str, list[tuple[int, Failure]]] = {}
    for r in rounds:
        for failure in r.failures:
            if failure.significant:
                significant.setdefault(failure.id, []).append((r.number, failure))

    def card(failure: Failure, number: int) -> FailureCard:
        numbers = tuple(n for n, _ in significant.get(failure.id, []))
        return FailureCard(failure, number, numbers, montages.get(failure.id))

    now = [card(f, last) for r in rounds if r.number == last for f in r.failures]
    earlier = [each[-1] for each in significant.values() if each[-1][0] != last]
    return now, [card(failure, number) for number, failure in earlier]


def outcome(events: Sequence[Mapping[str, Any]]) -> str:
    """Return the end of a session and the number of its incidents as sentences."""
    counts = Counter(str(event.get("kind", "")) for event in events)
    parts = [
        f"{counts[kind]} {one if counts[kind] == 1 else many}"
        for kind, one, many in _COUNTED_EVENTS
        if counts[kind]
    ]
    last = events[-1] if events and events[-1].get("kind") == "ended" else None
    end = f"It ended by {text.words(last['rule']).lower()}: {last['told']}. " if last else ""
    return f"{end}{', '.join(parts).capitalize() or 'No fault, resume or fallback'}."


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield nested settings as dotted keys and their values, sorted."""
    for key in sorted(settings):
        if isinstance(settings[key], Mapping) and settings[key]:
            yield from flat(settings[key], f"{prefix}{key}.")
        else:
            yield prefix + key, _plain(settings[key])


def _is_audited(settings: Mapping[str, Any]) -> bool:
    """Return whether the settings of a session enable the audit of generated images."""
    audit = settings.get("audit")
    return not (isinstance(audit, Mapping) and audit.get("method") == "none")


def _score_name(settings: Mapping[str, Any]) -> str:
    """Return the name of the score of slices, from the settings of a session."""
    dstm = settings.get("dstm")
    by_class = not isinstance(dstm, Mapping) or dstm.get("task") in (None, "classification")
    return "accuracy" if by_class else "mean score"


def _rounds_table(
    rounds: Sequence[Round],
    feedback: Mapping[int, Estimate],
    sealed: Mapping[int, Estimate],
    audited: bool,
) -> Table:
    rows: list[list[Cell]] = []
    for r in rounds:
        author: list[Part] = [r.plan.author if r.plan else None]
        author += [Line(text.plural(r.fallbacks, "fallback"), "dim")] if r.fallbacks else []
        n_made = r.batch.n_made if r.batch else 0
        rows.append(
            [
                r.label,
                author,
                text.count(n_made) if r.batch else None,
                text.percent(r.batch.n_kept / n_made) if r.batch and n_made and audited else None,
                text.count(r.training.n_images) if r.training else None,
                text.number(r.training.final_loss) if r.training and r.training.n_steps else None,
                feedback.get(r.number),
                sealed.get(r.number),
                (r.report.worst_slice if r.report else "") or None,
                text.duration(sum(r.seconds.values())) if r.seconds else None,
            ]
        )
    counts = ("Made", "Kept", "Trained on", "Loss")
    columns = ("Round", "Planned by", *counts, "Feedback", "Sealed test", "Worst slice", "Time")
    return Table(columns, rows, "Rounds", ("Round", *counts, "Time"), ("Worst slice",))


def _slice_table(slices: Sequence[BeforeAfter], rounds: Sequence[int]) -> Table:
    rows: list[list[Cell]] = []
    for row in slices:
        latest, change = row.after or row.before, row.change
        cells: list[Cell] = [row.label, text.count(latest.n) if latest else None]
        cells += [row.before] if len(rounds) > 1 else []
        cells.append(row.after)
        cells += [None if change is None else text.signed(change)] if len(rounds) > 1 else []
        rows.append(cells)
    ends = [f"Round {n}" for n in dict.fromkeys([*rounds[:1], *rounds[-1:]])]
    columns = ["Slice", "n", *ends, *(["Change"] if len(rounds) > 1 else [])]
    return Table(columns, rows, "Worst slices", ("n", "Change"), ("Slice",))


def _prompt_table(
    current: Round, rounds: Sequence[Round], montages: Mapping[str, bytes], audited: bool
) -> Table:
    """Return the prompts of a round with their audit, credits and montages."""
    assert current.plan
    quality = {q.prompt_id: q for q in current.batch.quality if q.n_made} if current.batch else {}
    rows: list[list[Cell]] = []
    for prompt in current.plan.prompts:
        credited = [c for r in rounds for c in r.credits if c.prompt_id == prompt.id]
        credited.sort(key=lambda c: (-c.change_per_100, c.slice))
        audit, montage = quality.get(prompt.id), montages.get(prompt.id)
        lines = [Line(prompt.id, "dim"), Line(prompt.text)]
        lines += [Line(slice_key(prompt.attributes), "key")] if prompt.attributes else []
        lines += [Line(prompt.why, "dim")] if prompt.why else []
        alt = f"Images generated for prompt {prompt.id}: {prompt.text}"
        rows.append(
            [
                lines,
                prompt.class_name,
                text.count(prompt.count),
                Rate(audit.n_kept / audit.n_made) if audit and audited else None,
                [line for c in dict.fromkeys(credited[:1] + credited[-1:]) for line in _credit(c)],
                Picture(montage, alt) if montage else None,
            ]
        )
    columns = ("Prompt", "Class", "Images", "Kept", "Credit", "Pictures")
    title = f"Prompts of round {current.number}"
    return Table(columns, rows, title, ("Images",), wide=("Prompt", "Credit"))


def _credit(credit: Credit) -> list[Line]:
    return [Line(text.signed(credit.change), "bold"), Line(credit.slice, "key")]


def _hypothesis_table(rounds: Sequence[Round]) -> Table | None:
    """Return a table of the hypotheses by round; None without any."""
    rows: list[list[Cell]] = []
    for r in rounds:
        verdict = r.verdict
        hypothesis = verdict.hypothesis if verdict else r.plan.hypothesis if r.plan else None
        if hypothesis is None:
            continue
        change = verdict.change if verdict else None
        rows.append(
            [
                str(r.number),
                hypothesis.slice,
                text.signed(hypothesis.expected_change, 2),
                verdict.before if verdict else None,
                verdict.after if verdict else None,
                None if change is None else text.signed(change),
                _verdict(verdict),
                Line(r.plan.why if r.plan else "", "dim"),
            ]
        )
    columns = ("Round", "Slice", "Expected", "Before", "After", "Change", "Verdict", "Why")
    right = ("Round", "Expected", "Change")
    return Table(columns, rows, "Hypotheses", right, ("Slice",), ("Why",)) if rows else None


def _verdict(verdict: Verdict | None) -> list[Line]:
    if verdict is None:
        return [Line("○ open")]
    if verdict.change is None:
        return [Line("○ not measurable")]
    if verdict.held is None:
        return [Line("○ undecided")]
    lines = [Line("✓ held", "good") if verdict.held else Line("✕ did not hold", "error")]
    before, after = verdict.before, verdict.after
    if verdict.effect is None and before and after and text.overlap(before, after):
        lines.append(Line("(intervals overlap)", "dim"))
    return lines


def _time_table(rounds: Sequence[Round]) -> Table | None:
    stages = list(dict.fromkeys(chain.from_iterable(r.seconds for r in rounds)))
    rows: list[list[Cell]] = [
        [
            str(r.number),
            *(text.duration(r.seconds[s]) if s in r.seconds else None for s in stages),
            Line(text.duration(sum(r.seconds.values())), "bold"),
        ]
        for r in rounds
        if r.seconds
    ]
    columns = ["Round", *map(text.words, stages), "Sum"]
    return Table(columns, rows, "Time per stage", columns) if stages else None


def _decision_table(decisions: Sequence[Decisions]) -> Table:
    rows: list[list[Cell]] = [
        [
            *map(str, (d.round, d.n_answers, d.n_legal, d.n_illegal, d.n_fallbacks)),
            str(d.prompt_tokens),
            str(d.answer_tokens),
            f"{d.usd:.4f}" if d.usd else None,
            text.duration(d.seconds),
        ]
        for d in decisions
    ]
    counts = ("Round", "Answers", "Legal calls", "Illegal", "Fallbacks")
    columns = (*counts, "Prompt tokens", "Answer tokens", "USD", "Time")
    return Table(columns, rows, "Decisions", columns)


def _event_table(events: Sequence[Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for event in events:
        parts = [str(event[key]).replace("_", " ") for key in _TITLES if event.get(key)]
        parts += [str(event[key]) for key in _MESSAGES if event.get(key)]
        if not parts and event.get("kind") == "resumed":
            parts = ["continued where it had stopped"]
        time = str(event.get("time", "")).replace("T", " ")[:19]
        named = [str(event.get(key, "")) for key in ("kind", "round")]
        rows.append([time, *named, ": ".join(parts)])
    columns = ("Time (UTC)", "Kind", "Round", "What")
    return Table(columns, rows, "What happened", ("Round",), wide=("What",))


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
