"""The charts of a session: scores, slices, requested images, and time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

from eval.report import text
from eval.report.blocks import Chart
from eval.report.charts import (
    N_COLOURS,
    NARROW,
    WIDE,
    BeforeAfter,
    Layer,
    Series,
    line_chart,
    row_chart,
    stacked_bars,
)
from memory.records import Estimate, Report, Round

_N_WORST = 8
_NOT_NAMED = "not named"


def charts(rounds: Sequence[Round]) -> list[Chart]:
    """Return charts of the score on feedback and of the requested images by round.

    The page needs charts.css for colours, and a rule that shows `.wide` or `.narrow`.
    """
    reports = {r.number: r.report for r in rounds if r.report}
    metric = main_metric(list(reports.values()))
    feedback = {n: r.metrics[metric] for n, r in reports.items() if metric in r.metrics}
    score = score_chart(rounds, feedback, {}, text.words(metric))
    return [*([score] if score else []), *composition_charts(rounds)]


def main_metric(reports: Sequence[Report]) -> str:
    """Return the name of the main metric; "balanced_accuracy" without reports."""
    return reports[0].main_metric if reports else "balanced_accuracy"


def worst_slices(reports: Sequence[Report]) -> list[BeforeAfter]:
    """Return the slices that are among the worst of the first or of the last report.

    Lowest last accuracy first. A single report counts as the last one.
    """
    if not reports:
        return []
    first = {} if len(reports) == 1 else {s.key: s.accuracy for s in reports[0].slices}
    last = {s.key: s.accuracy for s in reports[-1].slices}
    keys: dict[str, None] = {}
    for scores in (first, last):
        keys |= dict.fromkeys(sorted(scores, key=lambda k: (scores[k].value, k))[:_N_WORST])
    latest = {**first, **last}
    ordered = sorted(keys, key=lambda key: (latest[key].value, key))
    return [BeforeAfter(key, first.get(key), last.get(key)) for key in ordered]


def composition(rounds: Sequence[Round]) -> dict[str, dict[str, list[int]]]:
    """Count the requested images by class and by attribute value.

    Returns:
        For "class" and for every attribute, the counts of each value by planned round: most
        frequent value first, prompts that do not name the attribute last.
    """
    plans = [r.plan for r in rounds if r.plan]
    attributes = [prompt.attributes for plan in plans for prompt in plan.prompts]
    table = {}
    for name in dict.fromkeys(["class", *chain.from_iterable(attributes)]):
        counts: list[Counter[str]] = [Counter() for _ in plans]
        for plan, counter in zip(plans, counts, strict=True):
            for prompt in plan.prompts:
                named = {**prompt.attributes, "class": prompt.class_name}
                counter[named.get(name, _NOT_NAMED)] += prompt.count
        total = sum(counts, Counter())
        order = sorted(total, key=lambda v: (v == _NOT_NAMED, -total[v], v))
        table[name] = {value: [c[value] for c in counts] for value in order}
    return table


def score_chart(
    rounds: Sequence[Round],
    feedback: Mapping[int, Estimate],
    sealed: Mapping[int, Estimate],
    metric: str,
) -> Chart | None:
    """Return a chart of the main figure on feedback and on the sealed test; None without any."""
    lines = [
        Series("feedback", feedback, "s0", band=True),
        Series("sealed test", sealed, "s1", band=False),
    ]
    series = [line for line in lines if line.points]
    if not series:
        return None
    numbers = sorted({r.number for r in rounds} | {n for s in series for n in s.points})
    figures = "; ".join(
        f"{s.name}: " + ", ".join(f"round {n} {text.number(e.value)}" for n, e in s.points.items())
        for s in series
    )
    return line_chart(f"{metric} by round", figures, series, numbers, metric)


def slice_chart(
    slices: Sequence[BeforeAfter], reports: Sequence[Report], score: str
) -> Chart | None:
    """Return a chart of the worst slices before and after; score: name of their score."""
    if not slices:
        return None
    whole = reports[-1].metrics.get("accuracy")
    return row_chart(
        f"{score.capitalize()} of the worst slices, before and after",
        "The same figures are in the table below.",
        slices,
        f"{score.capitalize()} on feedback photographs of the slice",
        ("all photographs", whole.value) if whole else None,
    )


def composition_charts(rounds: Sequence[Round]) -> list[Chart]:
    """Return charts of the requested images by round, one for the class and for every attribute."""
    numbers = [r.number for r in rounds if r.plan]
    return [
        stacked_bars(
            f"Images by {text.words(name).lower()}",
            "Images asked for in each round, all rounds together: "
            + ", ".join(f"{value} {text.count(sum(counts))}" for value, counts in values.items()),
            numbers,
            _layers(values),
            text.words(name),
            form=text.count,
        )
        for name, values in composition(rounds).items()
        if values and list(values) != ["scene"]  # the class of all images with pixel labels
    ]


def time_chart(rounds: Sequence[Round]) -> Chart | None:
    """Return a chart of the time of every stage by round; None before a stage has ended."""
    stages = list(dict.fromkeys(chain.from_iterable(r.seconds for r in rounds)))
    if not stages:
        return None
    longest = max(sum(r.seconds.values()) for r in rounds)
    size, unit = (1, "Seconds") if longest < 180 else (60, "Minutes")
    size, unit = (3600, "Hours") if longest >= 3 * 3600 else (size, unit)
    return stacked_bars(
        "Time per stage and round",
        "The same figures are in the table below.",
        [r.number for r in rounds],
        [
            Layer(s, [r.seconds.get(s, 0) / size for r in rounds], f"s{min(i, N_COLOURS - 1)}")
            for i, s in enumerate(stages)
        ],
        unit,
        (WIDE, NARROW),
        form=lambda value: text.duration(value * size),
    )


def _layers(values: Mapping[str, Sequence[int]]) -> list[Layer]:
    """Return a layer per value; values beyond the palette are merged into one."""
    named = [value for value in values if value != _NOT_NAMED]
    n_shown = len(named) if len(named) <= N_COLOURS else N_COLOURS - 1
    layers = [Layer(value, values[value], f"s{i}") for i, value in enumerate(named[:n_shown])]
    if rest := named[n_shown:]:
        sums = [sum(column) for column in zip(*(values[v] for v in rest), strict=True)]
        layers.append(Layer(f"{len(rest)} others", sums, f"s{n_shown}"))
    if _NOT_NAMED in values:
        layers.append(Layer(_NOT_NAMED, values[_NOT_NAMED], "none"))
    return layers
