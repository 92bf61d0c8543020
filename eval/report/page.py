"""From the records of a session to the report page; the layout is in page.html.j2."""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from eval.decisions import Decisions, legal_share
from eval.report import text
from eval.report.charts import (
    N_COLOURS,
    Dumbbell,
    Layer,
    Series,
    dumbbells,
    line_chart,
    stacked_bars,
    whisker_bar,
)
from eval.report.templates import page_environment
from memory.records import (
    Credit,
    Estimate,
    Failure,
    Fixable,
    Hypothesis,
    PromptQuality,
    PromptSpec,
    Report,
    Round,
    Trial,
    Verdict,
    slice_key,
)

_WIDE, _NARROW, _SMALL = 980, 350, 320
_N_WORST = 8
_NOT_NAMED = "not named"
_HAPPENINGS = (
    ("fault", "fault was dealt with", "faults were dealt with"),
    ("resumed", "resume", "resumes"),
    ("paused", "pause", "pauses"),
    ("fallback", "fallback to the policy", "fallbacks to the policy"),
    ("warning", "warning", "warnings"),
)


@dataclass(frozen=True)
class WishRow:
    """What a person wished, and what became of it.

    said: in words; since: the first round it holds for; forgotten: whether it was taken back.
    before, after: the share of images that it is about, 0..1, in the first plan before steering and
    in the last plan; None where no measured round followed. Scores are those of its slice before
    its first round and after the last one.
    """

    said: str
    since: int
    forgotten: bool
    before: float | None = None
    after: float | None = None
    score_before: Estimate | None = None
    score_after: Estimate | None = None


@dataclass(frozen=True)
class ReportData:
    """All that the report shows. The same data give the same bytes.

    rounds: in order; parts that are None are shown as missing. sealed: reports on the test
    split. Montages are PNG files' bytes by prompt id and by failure id; legend: a PNG that says
    what the colours of their labels mean. events: journal events worth telling (faults, pauses,
    fallbacks, resumes, warnings, the end). decisions: of the brain, by round. wishes: of the people
    who steered, oldest first. reproduce: command lines, in order.
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
    wishes: Sequence[WishRow] = ()
    reproduce: Sequence[str] = ()


@dataclass(frozen=True)
class Progress:
    """A figure at its first and at its last measurement."""

    first_round: int
    first: Estimate
    last_round: int
    last: Estimate

    @property
    def moved(self) -> bool:
        """Whether there is more than one measurement."""
        return self.first_round != self.last_round

    @property
    def change(self) -> float:
        """Last minus first value."""
        return self.last.value - self.first.value

    @property
    def overlap(self) -> bool:
        """Whether the two intervals overlap, so that chance may explain the change."""
        return self.first.low <= self.last.high and self.last.low <= self.first.high


@dataclass(frozen=True)
class PromptRow:
    """A prompt with what came of it."""

    prompt: PromptSpec
    quality: PromptQuality | None
    best: Credit | None
    worst: Credit | None
    montage: str | None

    @property
    def kept_rate(self) -> float | None:
        """Kept of made images; None before the audit."""
        if self.quality is None or self.quality.n_made == 0:
            return None
        return self.quality.n_kept / self.quality.n_made


@dataclass(frozen=True)
class TrialRow:
    """A slice on trial, what the audit kept of its images, and what is known of it since then."""

    trial: Trial
    n_kept: int | None
    fixable: Fixable | None


@dataclass(frozen=True)
class FailureCard:
    """A failure as last measured, and the rounds in which it was significant."""

    failure: Failure
    round: int
    rounds: tuple[int, ...]
    montage: str | None


@dataclass(frozen=True)
class Expectation:
    """A hypothesis, and its verdict once the next report was there."""

    round: int
    why: str
    hypothesis: Hypothesis
    verdict: Verdict | None

    @property
    def may_be_chance(self) -> bool:
        """Whether a change was measured whose 95% intervals before and after overlap."""
        if not self.verdict or not self.verdict.change:
            return False
        before, after = self.verdict.before, self.verdict.after
        if before is None or after is None:
            return False
        return before.low <= after.high and after.low <= before.high


@dataclass(frozen=True)
class SliceRow:
    """A slice before and after."""

    key: str
    before: Estimate | None
    after: Estimate | None

    @property
    def change(self) -> float | None:
        """After minus before; None if one is missing."""
        return self.after.value - self.before.value if self.before and self.after else None


def build_report_html(data: ReportData) -> str:
    """Return the report as one HTML page: no script, no outside request, all text escaped."""
    rounds = data.rounds
    reports = {r.number: r.report for r in rounds if r.report}
    metric = main_metric([*reports.values(), *data.sealed])
    feedback = {n: r.metrics[metric] for n, r in reports.items() if metric in r.metrics}
    sealed = {r.round: r.metrics[metric] for r in data.sealed if metric in r.metrics}
    slices = worst_slices(list(reports.values()))
    stages = list(dict.fromkeys(chain.from_iterable(r.seconds for r in rounds)))
    now, earlier = failure_cards(rounds, data.failure_montages)
    name = text.words(metric)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            data=data,
            metric=name,
            score=_score_of(data.settings),
            feedback=feedback,
            sealed=sealed,
            progress=progress(feedback),
            sealed_progress=progress(sealed),
            worst=worst_progress(rounds),
            n_prompts=sum(len(r.plan.prompts) for r in rounds if r.plan),
            n_made=sum(r.batch.n_made for r in rounds if r.batch),
            n_kept=sum(r.batch.n_kept for r in rounds if r.batch),
            audited=_is_audited(data.settings),
            seconds=sum(chain.from_iterable(r.seconds.values() for r in rounds)),
            unfinished=unfinished(rounds),
            resume=f"shaping resume {shlex.quote(data.session)}",
            score_chart=_score_chart(rounds, feedback, sealed, name),
            composition_charts=_composition_charts(rounds),
            slices=slices,
            slice_rounds=list(reports),
            slice_chart=_slice_chart(slices, list(reports.values()), _score_of(data.settings)),
            prompts={r.number: prompt_rows(r, rounds, data.prompt_montages) for r in rounds},
            trials={r.number: trial_rows(r) for r in rounds},
            failures=[card for card in now if card.failure.significant],
            other_failures=[card for card in now if not card.failure.significant],
            earlier_failures=earlier,
            measured=bool(reports),
            expectations=expectations(rounds),
            time_chart=_time_chart(rounds, stages),
            stages=stages,
            legend=_data_uri(data.legend),
            legal_share=legal_share(data.decisions),
            events=[_event_row(event) for event in data.events],
            happened=happened(data.events),
            settings=list(flat(data.settings)),
        )
    )


def charts(rounds: Sequence[Round]) -> list[Markup]:
    """Return the score on feedback and what was asked for, by round, for another page.

    They are coloured by charts.css, and need a rule that shows `.wide` or `.narrow`.
    """
    reports = {r.number: r.report for r in rounds if r.report}
    metric = main_metric(list(reports.values()))
    feedback = {n: r.metrics[metric] for n, r in reports.items() if metric in r.metrics}
    score = _score_chart(rounds, feedback, {}, text.words(metric))
    return [*([score] if score else []), *_composition_charts(rounds)]


def main_metric(reports: Sequence[Report]) -> str:
    """Return the name of the metric that the report leads with."""
    return reports[0].main_metric if reports else "balanced_accuracy"


def progress(figures: Mapping[int, Estimate]) -> Progress | None:
    """Return the first and last of figures by round; None if there are none."""
    if not figures:
        return None
    first, last = min(figures), max(figures)
    return Progress(first, figures[first], last, figures[last])


def worst_progress(rounds: Sequence[Round]) -> Progress | None:
    """Return the accuracy of what was the worst slice at the first and at the last report."""
    return progress(
        {
            r.number: s.accuracy
            for r in rounds
            if r.report
            for s in r.report.slices
            if s.key == r.report.worst_slice
        }
    )


def worst_slices(reports: Sequence[Report]) -> list[SliceRow]:
    """Return the slices that are among the worst of the first or of the last report.

    Lowest last accuracy first. With a single report it counts as the last one.
    """
    if not reports:
        return []
    first = {} if len(reports) == 1 else {s.key: s.accuracy for s in reports[0].slices}
    last = {s.key: s.accuracy for s in reports[-1].slices}
    keys: dict[str, None] = {}
    for scores in (first, last):
        keys |= dict.fromkeys(sorted(scores, key=lambda k: (scores[k].value, k))[:_N_WORST])
    rows = [SliceRow(key, first.get(key), last.get(key)) for key in keys]

    def order(row: SliceRow) -> tuple[float, str]:
        known = row.after or row.before
        return (known.value if known else 0.0, row.key)

    return sorted(rows, key=order)


def _is_audited(settings: Mapping[str, Any]) -> bool:
    """Tell whether something judged the images, by the settings of a session."""
    audit = settings.get("audit")
    return not (isinstance(audit, Mapping) and audit.get("method") == "none")


def _score_of(settings: Mapping[str, Any]) -> str:
    """Return what slices are measured by, by the settings of a session."""
    dstm = settings.get("dstm")
    by_class = not isinstance(dstm, Mapping) or dstm.get("task") in (None, "classification")
    return "accuracy" if by_class else "mean score"


def unfinished(rounds: Sequence[Round]) -> dict[str, Any] | None:
    """Return which stages the last round has behind it and which is next; None if it is whole."""
    if not rounds or rounds[-1].report:
        return None
    last = rounds[-1]
    stages = {"planned": last.plan, "generated": last.batch, "trained": last.training}
    done = [name for name, part in stages.items() if part]
    todo = [name for name, part in stages.items() if not part]
    return {"round": last.number, "done": done, "next": (*todo, "evaluated")[0]}


def composition(rounds: Sequence[Round]) -> dict[str, dict[str, list[int]]]:
    """Count the images asked for, by what is said of them.

    Returns, for "class" and for every attribute, the counts per planned round of each value:
    most frequent value first, prompts that do not name the attribute last.
    """
    plans = [r.plan for r in rounds if r.plan]
    attributes = [prompt.attributes for plan in plans for prompt in plan.prompts]
    table = {}
    for name in dict.fromkeys(["class", *chain.from_iterable(attributes)]):
        counts: list[Counter[str]] = [Counter() for _ in plans]
        for plan, counter in zip(plans, counts, strict=True):
            for prompt in plan.prompts:
                said = {**prompt.attributes, "class": prompt.class_name}
                counter[said.get(name, _NOT_NAMED)] += prompt.count
        total = sum(counts, Counter())
        order = sorted(total, key=lambda v: (v == _NOT_NAMED, -total[v], v))
        table[name] = {value: [c[value] for c in counts] for value in order}
    return table


def prompt_rows(
    of: Round, rounds: Sequence[Round], montages: Mapping[str, bytes]
) -> list[PromptRow]:
    """Return the prompts of one round with their audit, credits and montage."""
    if not of.plan:
        return []
    quality = {q.prompt_id: q for q in of.batch.quality} if of.batch else {}
    rows = []
    for prompt in of.plan.prompts:
        found = [c for r in rounds for c in r.credits if c.prompt_id == prompt.id]
        found.sort(key=lambda c: (-c.change_per_100, c.slice))
        rows.append(
            PromptRow(
                prompt=prompt,
                quality=quality.get(prompt.id),
                best=found[0] if found else None,
                worst=found[-1] if len(found) > 1 else None,
                montage=_data_uri(montages.get(prompt.id)),
            )
        )
    return rows


def trial_rows(of: Round) -> list[TrialRow]:
    """Return the trials of one round with what came of them, as far as it is known."""
    if not of.plan:
        return []
    kept = {q.prompt_id: q.n_kept for q in of.batch.quality} if of.batch else None
    known = {failure.slice: failure.fixable for failure in of.failures}
    return [
        TrialRow(
            trial=trial,
            n_kept=None
            if kept is None
            else sum(
                kept.get(p.id, 0)
                for p in of.plan.prompts
                if trial.attributes.items() <= p.attributes.items()
            ),
            fixable=known.get(trial.slice),
        )
        for trial in of.plan.trials
    ]


def failure_cards(
    rounds: Sequence[Round], montages: Mapping[str, bytes]
) -> tuple[list[FailureCard], list[FailureCard]]:
    """Return the failures of the last report, and significant ones that it no longer has.

    The latter are shown as they were when last significant.
    """
    last = max((r.number for r in rounds if r.report), default=0)
    significant: dict[str, list[tuple[int, Failure]]] = {}
    for r in rounds:
        for failure in r.failures:
            if failure.significant:
                significant.setdefault(failure.id, []).append((r.number, failure))

    def card(failure: Failure, number: int) -> FailureCard:
        found = tuple(n for n, _ in significant.get(failure.id, []))
        return FailureCard(failure, number, found, _data_uri(montages.get(failure.id)))

    now = [card(f, last) for r in rounds if r.number == last for f in r.failures]
    gone = [seen[-1] for seen in significant.values() if seen[-1][0] != last]
    return now, [card(failure, number) for number, failure in gone]


def expectations(rounds: Sequence[Round]) -> list[Expectation]:
    """Return the hypotheses in the order of their rounds."""
    found = []
    for r in rounds:
        planned = r.plan.hypothesis if r.plan else None
        hypothesis = r.verdict.hypothesis if r.verdict else planned
        if hypothesis:
            found.append(Expectation(r.number, r.plan.why if r.plan else "", hypothesis, r.verdict))
    return found


def _score_chart(
    rounds: Sequence[Round],
    feedback: Mapping[int, Estimate],
    sealed: Mapping[int, Estimate],
    metric: str,
) -> Markup | None:
    series = [
        Series(name, points, style, band)
        for name, points, style, band in (
            ("feedback", feedback, "s0", True),
            ("sealed test", sealed, "s1", False),
        )
        if points
    ]
    if not series:
        return None
    numbers = sorted({r.number for r in rounds} | {n for s in series for n in s.points})
    told = "; ".join(
        f"{s.name}: " + ", ".join(f"round {n} {text.number(e.value)}" for n, e in s.points.items())
        for s in series
    )

    def draw(width: int) -> Markup:
        height = 340 if width == _WIDE else 300
        return line_chart(f"{metric} by round", told, series, numbers, metric, width, height)

    return _both(draw)


def _slice_chart(
    slices: Sequence[SliceRow], reports: Sequence[Report], score: str
) -> Markup | None:
    if not slices:
        return None
    whole = reports[-1].metrics.get("accuracy")
    rows = [Dumbbell(s.key, s.before, s.after) for s in slices]

    def draw(width: int) -> Markup:
        return dumbbells(
            f"{score.capitalize()} of the worst slices, before and after",
            "The same figures are in the table below.",
            rows,
            f"{score.capitalize()} on feedback photographs of the slice",
            ("all photographs", whole.value) if whole else None,
            width,
        )

    return _both(draw)


def _composition_charts(rounds: Sequence[Round]) -> list[Markup]:
    numbers = [r.number for r in rounds if r.plan]
    return [
        stacked_bars(
            f"Images by {text.words(name).lower()}",
            "Images asked for in each round, all rounds together: "
            + ", ".join(f"{value} {text.count(sum(counts))}" for value, counts in values.items()),
            numbers,
            _layers(values),
            text.words(name),
            _SMALL,
            form=text.count,
        )
        for name, values in composition(rounds).items()
        if values and list(values) != ["scene"]  # images of which pixels alone have classes
    ]


def _layers(values: Mapping[str, Sequence[int]]) -> list[Layer]:
    """Give each value a colour; those beyond the palette are drawn as one."""
    named = [value for value in values if value != _NOT_NAMED]
    n_shown = len(named) if len(named) <= N_COLOURS else N_COLOURS - 1
    layers = [Layer(value, values[value], f"s{i}") for i, value in enumerate(named[:n_shown])]
    if rest := named[n_shown:]:
        sums = [sum(column) for column in zip(*(values[v] for v in rest), strict=True)]
        layers.append(Layer(f"{len(rest)} others", sums, f"s{n_shown}"))
    if _NOT_NAMED in values:
        layers.append(Layer(_NOT_NAMED, values[_NOT_NAMED], "none"))
    return layers


def _time_chart(rounds: Sequence[Round], stages: Sequence[str]) -> Markup | None:
    if not stages:
        return None
    longest = max(sum(r.seconds.values()) for r in rounds)
    size, unit = (1, "Seconds") if longest < 180 else (60, "Minutes")
    size, unit = (3600, "Hours") if longest >= 3 * 3600 else (size, unit)
    layers = [
        Layer(stage, [r.seconds.get(stage, 0) / size for r in rounds], f"s{min(i, N_COLOURS - 1)}")
        for i, stage in enumerate(stages)
    ]

    def draw(width: int) -> Markup:
        return stacked_bars(
            "Time per stage and round",
            "The same figures are in the table below.",
            [r.number for r in rounds],
            layers,
            unit,
            width,
            height=260,
            form=lambda value: text.duration(value * size),
        )

    return _both(draw)


def _both(draw: Callable[[int], Markup]) -> Markup:
    """Draw a chart for a wide page and for a phone; the style sheet shows one of them."""
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(
        draw(_WIDE), draw(_NARROW)
    )


def happened(events: Sequence[Mapping[str, Any]]) -> str:
    """Return in a sentence or two how a session ended and what it went through."""
    counts = Counter(str(event.get("kind", "")) for event in events)
    said = [
        f"{counts[kind]} {one if counts[kind] == 1 else many}"
        for kind, one, many in _HAPPENINGS
        if counts[kind]
    ]
    last = events[-1] if events and events[-1].get("kind") == "ended" else None
    end = f"It ended by {text.words(last['rule']).lower()}: {last['told']}. " if last else ""
    return f"{end}{', '.join(said).capitalize() or 'No fault, resume, fallback or warning'}."


def _event_row(event: Mapping[str, Any]) -> dict[str, str]:
    known = ("schema", "time", "kind", "key", "round", "chain", "settings", "interactive")
    rest = {key: value for key, value in event.items() if key not in known}
    if not rest and event.get("kind") == "resumed":
        rest = {"told": "continued where it had stopped"}
    told = [_plain(v) if len(rest) == 1 else f"{k}: {_plain(v)}" for k, v in rest.items()]
    return {
        "time": str(event.get("time", "")).replace("T", " ")[:19],
        "kind": str(event.get("kind", "")),
        "round": str(event.get("round", "")),
        "told": "; ".join(told),
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield nested settings as dotted keys and what stands there, sorted."""
    for key in sorted(settings):
        if isinstance(settings[key], Mapping) and settings[key]:
            yield from flat(settings[key], f"{prefix}{key}.")
        else:
            yield prefix + key, _plain(settings[key])


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _data_uri(png: bytes | None) -> str | None:
    return f"data:image/png;base64,{b64encode(png).decode()}" if png else None


@cache
def environment() -> Environment:
    """Return the environment of the pages of this package."""
    made = page_environment("eval.report")
    made.filters |= {
        "number": text.number,
        "signed": text.signed,
        "interval": text.interval,
        "estimate": text.estimate_text,
        "count": text.count,
        "p": text.p_value,
        "duration": text.duration,
        "words": text.words,
        "slice_key": slice_key,
        "whisker_bar": whisker_bar,
    }
    return made
