"""Charts as inline SVG: pure functions from figures to markup, coloured by the page's style sheet.

Lengths are SVG units, equal to CSS pixels where a chart is shown at its own width. Every mark
carries a <title>, so its exact figures are shown on hover and read aloud without any script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup, escape

from eval.report.text import estimate_text, interval, number, shorten, signed
from memory.records import Estimate

N_COLOURS = 6
_CHARACTER = 6.3
_LABEL_GAP = 16.0
_ROOMY = 640


@dataclass(frozen=True)
class Series:
    """One line of a line chart: an estimate per round, drawn with a band or with whiskers."""

    name: str
    points: Mapping[int, Estimate]
    style: str
    band: bool


@dataclass(frozen=True)
class Layer:
    """One colour of a stacked bar chart: a value per column."""

    name: str
    values: Sequence[float]
    style: str


@dataclass(frozen=True)
class Dumbbell:
    """One row of a dumbbell chart: the same figure before and after."""

    label: str
    before: Estimate | None
    after: Estimate | None


@dataclass(frozen=True)
class Forest:
    """One row of a forest chart: a difference with its interval."""

    label: str
    difference: Estimate


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    rounds: Sequence[int],
    y_label: str,
    width: int,
    height: int = 320,
) -> Markup:
    """Draw estimates by round; `rounds` spans the axis, also where nothing was measured.

    Lines are named at their ends where there is room, else above the plot.
    """
    labels = [f"{s.name} {number(_last(s).value)}" for s in series]
    beside = width >= _ROOMY
    right = max(len(label) for label in labels) * _CHARACTER + 26 if beside else 12.0
    left, top, bottom = 44.0, 34.0 if beside else 58.0, 46.0
    plot_w, plot_h = width - left - right, height - top - bottom
    every = [e for s in series for e in s.points.values()]
    marks = ticks(min(e.low for e in every), max(e.high for e in every), 6)
    low, high = marks[0], marks[-1]
    first, last = min(rounds), max(rounds)

    def x(at: int, aside: float = 0) -> float:
        return left + plot_w * ((at - first) / (last - first) if last > first else 0.5) + aside

    def y(value: float) -> float:
        return top + plot_h * (1 - (value - low) / (high - low))

    parts = [_y_axis(marks, y, left, width - right, y_label)]
    parts.append(_x_axis([(n, x(n)) for n in rounds], top + plot_h, left + plot_w / 2, plot_w))
    lines, dots = [], []
    for i, s in enumerate(series):
        # A single round would put all series on one spot.
        aside = 24.0 * i if last == first else 0.0
        points = sorted(s.points.items())
        if s.band and len(points) > 1:
            outline = [(x(n, aside), y(e.high)) for n, e in points]
            outline += [(x(n, aside), y(e.low)) for n, e in reversed(points)]
            lines.append(_tag("polygon", class_=f"band {s.style}", points=_points(outline)))
        else:
            lines += [
                _line(x(n, aside), y(e.low), x(n, aside), y(e.high), f"whisker {s.style}")
                for n, e in points
            ]
        path = _points([(x(n, aside), y(e.value)) for n, e in points])
        lines.append(_tag("polyline", class_=f"line {s.style}", points=path))
        radius = 4.5 if plot_w / len(rounds) > 24 else 3
        for n, e in points:
            tip = _tag("title", f"{s.name}, round {n}: {estimate_text(e)}")
            dots.append(_marker(x(n, aside), y(e.value), radius, s.band, f"dot {s.style}", tip))
    ends = spread([y(_last(s).value) for s in series], _LABEL_GAP, top, top + plot_h)
    places = [(left + plot_w + 16, at) for at in ends]
    if not beside:
        starts = accumulate((len(label) * _CHARACTER + 34 for label in labels), initial=8.0)
        places = [(start, 36.0) for start in starts]
    for s, label, (start, at) in zip(series, labels, places, strict=False):
        parts.append(_marker(start, at, 4, s.band, f"dot {s.style}"))
        parts.append(_text(start + 9, at + 4, label, "label"))
    return _svg(title, description, width, height, [*parts, *lines, *dots])


def stacked_bars(
    title: str,
    description: str,
    columns: Sequence[int],
    layers: Sequence[Layer],
    y_label: str,
    width: int,
    height: int = 210,
    form: Callable[[float], str] = str,
) -> Markup:
    """Draw one bar per round, stacked from the first layer up; `form` writes a value."""
    right = min(max(len(s.name) for s in layers) * _CHARACTER + 36, width * 0.42)
    left, top, bottom = 44.0, 30.0, 44.0
    plot_w, plot_h = width - left - right, height - top - bottom
    totals = [sum(s.values[i] for s in layers) for i in range(len(columns))]
    marks = ticks(0, max([*totals, 1e-9]), 4)
    slot = plot_w / len(columns)
    bar = min(slot * 0.74, 46.0)

    def y(value: float) -> float:
        return top + plot_h * (1 - value / marks[-1])

    centres = [(n, left + slot * (i + 0.5)) for i, n in enumerate(columns)]
    parts = [_y_axis(marks, y, left, width - right, y_label)]
    parts.append(_x_axis(centres, top + plot_h, left + plot_w / 2, plot_w))
    base = [0.0] * len(columns)
    wanted = []
    for s in layers:
        for i, (n, centre) in enumerate(centres):
            if s.values[i] <= 0:
                continue
            tip = _tag("title", f"Round {n}, {s.name}: {form(s.values[i])} of {form(totals[i])}")
            box = (y(base[i] + s.values[i]), y(base[i]))
            # The gap of one pixel parts neighbours that look alike to a colour-blind reader.
            tall = max(box[1] - box[0] - 1, 0.5)
            parts.append(
                _tag(
                    "rect",
                    tip,
                    class_=f"bar {s.style}",
                    x=centre - bar / 2,
                    y=box[0],
                    width=bar,
                    height=tall,
                )
            )
        wanted.append(y(base[-1] + s.values[-1] / 2))
        base = [below + value for below, value in zip(base, s.values, strict=True)]
    room = int((right - 28) / _CHARACTER) + 1
    for s, at in zip(layers, spread(wanted, _LABEL_GAP, top, top + plot_h), strict=True):
        edge = left + plot_w
        parts.append(
            _tag("rect", class_=f"bar {s.style}", x=edge + 8, y=at - 5, width=10, height=10)
        )
        parts.append(_text(edge + 23, at + 4, shorten(s.name, room), "label"))
    return _svg(title, description, width, height, parts)


def dumbbells(
    title: str,
    description: str,
    rows: Sequence[Dumbbell],
    x_label: str,
    reference: tuple[str, float] | None,
    width: int,
) -> Markup:
    """Draw before (ring) and after (dot) of every row on a scale from 0 to 1, with intervals.

    Row labels stand left of the scale where there is room, else above their row.
    """
    beside = width >= _ROOMY
    left = 330.0 if beside else 14.0
    right, top, row_h = 66.0, 34.0, 34.0 if beside else 50.0
    plot_w = width - left - right
    foot = top + row_h * len(rows)
    height = round(foot + 46)
    room = int(((left - 16) if beside else width - 12) / _CHARACTER)

    def x(value: float) -> float:
        return left + plot_w * min(max(value, 0), 1)

    parts = []
    for value in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        parts.append(_line(x(value), top - 4, x(value), foot, "grid"))
        parts.append(_text(x(value), foot + 16, number(value, 1), "tick", "middle"))
    parts.append(_text(left + plot_w / 2, foot + 36, x_label, "axis", "middle"))
    if reference:
        name, value = reference
        parts.append(_line(x(value), top - 8, x(value), foot, "reference"))
        parts.append(_text(x(value), top - 14, f"{name} {number(value, 2)}", "label", "middle"))
    for i, row in enumerate(rows):
        mid = top + row_h * (i + 0.5) + (0 if beside else 9)
        known = [e for e in (row.before, row.after) if e]
        tip = _tag(
            "title",
            f"{row.label}: before {estimate_text(row.before)}, after {estimate_text(row.after)}",
        )
        marks = []
        for e, style, offset in ((row.before, "before", -3.5), (row.after, "after", 3.5)):
            if e:
                at = mid + (offset if len(known) == 2 else 0)
                marks.append(_line(x(e.low), at, x(e.high), at, f"range {style}"))
        if row.before and row.after:
            marks.append(_line(x(row.before.value), mid, x(row.after.value), mid, "change"))
        if row.before:
            marks.append(_tag("circle", class_="ring", cx=x(row.before.value), cy=mid, r=5))
        if row.after:
            marks.append(_tag("circle", class_="dot s0", cx=x(row.after.value), cy=mid, r=5.5))
        label = shorten(row.label, room)
        if beside:
            marks.append(_text(left - 12, mid + 4, label, "label", "end"))
        else:
            marks.append(_text(left - 10, mid - 15, label, "label"))
        if row.before and row.after:
            change = signed(row.after.value - row.before.value, 2)
            marks.append(_text(width - 4, mid + 4, change, "label", "end"))
        parts.append(_tag("g", tip, *marks))
    return _svg(title, description, width, height, parts)


def forest(
    title: str, description: str, rows: Sequence[Forest], x_label: str, width: int
) -> Markup:
    """Draw differences and their intervals around a line at 0."""
    left, right, top, row_h = 230.0, 66.0, 14.0, 28.0
    plot_w, foot = width - left - right, top + row_h * len(rows)
    every = [row.difference for row in rows]
    marks = ticks(min(0, *(e.low for e in every)), max(0, *(e.high for e in every)), 6)
    low, high = marks[0], marks[-1]

    def x(value: float) -> float:
        return left + plot_w * (value - low) / (high - low)

    parts = []
    for value in marks:
        parts.append(_line(x(value), top, x(value), foot, "grid" if value else "reference"))
        parts.append(_text(x(value), foot + 16, signed(value), "tick", "middle"))
    parts.append(_text(left + plot_w / 2, foot + 36, x_label, "axis", "middle"))
    for i, row in enumerate(rows):
        mid, e = top + row_h * (i + 0.5), row.difference
        interval = f" ({signed(e.low)} to {signed(e.high)})" if e.n > 1 else ""
        tip = _tag("title", f"{row.label}: {signed(e.value)}{interval}")
        marks_of_row = [
            _line(x(e.low), mid, x(e.high), mid, "range after"),
            _tag("circle", class_="dot s0", cx=x(e.value), cy=mid, r=5.5),
            _text(left - 12, mid + 4, shorten(row.label, 34), "label", "end"),
            _text(width - 4, mid + 4, signed(e.value), "label", "end"),
        ]
        parts.append(_tag("g", tip, *marks_of_row))
    return _svg(title, description, width, round(foot + 46), parts)


def whisker_bar(estimate: Estimate, style: str, title: str) -> Markup:
    """Draw one estimate between 0 and 1 as a small bar with its interval, for table cells."""
    width, mid = 64.0, 7.0
    value, low, high = (
        min(max(v, 0.0), 1.0) * width for v in (estimate.value, estimate.low, estimate.high)
    )
    parts = [
        _tag("rect", class_="track", x=0, y=3, width=width, height=8),
        _tag("rect", class_=f"bar {style}", x=0, y=3, width=value, height=8),
        _line(low, mid, high, mid, "interval"),
    ]
    return _svg(title, f"95% interval {interval(estimate)}", int(width), 14, parts, "mini")


def scatter(
    title: str,
    description: str,
    points: Sequence[tuple[float, float]],
    means: Sequence[tuple[float, Estimate]],
    x_label: str,
    y_label: str,
    width: int,
    height: int = 340,
) -> Markup:
    """Draw points, means of bins with whiskers, and the diagonal on which both axes agree."""
    left, right, top, bottom = 52.0, 14.0, 34.0, 46.0
    plot_w, plot_h = width - left - right, height - top - bottom
    xs, ys = [p[0] for p in points] + [0.0], [p[1] for p in points] + [0.0]
    ys += [bound for _, e in means for bound in (e.low, e.high)]
    across, up = ticks(min(xs), max(xs), 5), ticks(min(ys), max(ys), 6)

    def x(value: float) -> float:
        return left + plot_w * (value - across[0]) / (across[-1] - across[0])

    def y(value: float) -> float:
        return top + plot_h * (1 - (value - up[0]) / (up[-1] - up[0]))

    parts = [_y_axis(up, y, left, width - right, y_label)]
    parts += [
        _text(x(v), top + plot_h + 17, f"{v:.3f}".rstrip("0").rstrip("."), "tick", "middle")
        for v in across
    ]
    parts.append(_text(left + plot_w / 2, top + plot_h + 37, x_label, "axis", "middle"))
    start, end = max(across[0], up[0]), min(across[-1], up[-1])
    if start < end:
        ends = {"x1": x(start), "y1": y(start), "x2": x(end), "y2": y(end)}
        parts.append(_tag("line", class_="grid", stroke_dasharray="4 3", **ends))
    for expected, measured in points:
        tip = _tag("title", f"expected {signed(expected)}, measured {signed(measured)}")
        at = {"cx": x(expected), "cy": y(measured), "r": 3.0, "fill_opacity": 0.4}
        parts.append(_tag("circle", tip, class_="dot s0", **at))
    for expected, mean in means:
        parts.append(_line(x(expected), y(mean.low), x(expected), y(mean.high), "whisker s5"))
        tip = _tag("title", f"expected {signed(expected)}, measured {estimate_text(mean)}")
        parts.append(_marker(x(expected), y(mean.value), 5, False, "dot s5", tip))
    return _svg(title, description, width, height, parts)


def ticks(low: float, high: float, n_steps: int) -> list[float]:
    """Return at most about `n_steps` + 1 round values whose ends enclose `low` and `high`."""
    span = max(high - low, 0.02 if high <= 1 else abs(high) * 0.02)
    rough = span / n_steps
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(k * step, 10) for k in range(first, last + 1)]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart to at least `gap`, keeping their order and, if there is room, the bounds.

    Returns a position for each of `wanted`.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = max(wanted[i], floor)
        floor = placed[i] + gap
    ceiling = high
    for i in reversed(order):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed


def _last(series: Series) -> Estimate:
    return series.points[max(series.points)]


def _y_axis(
    marks: Sequence[float],
    y: Callable[[float], float],
    left: float,
    right: float,
    label: str,
) -> Markup:
    step = marks[1] - marks[0]
    digits = next((d for d in range(4) if abs(round(step, d) - step) < 1e-9), 4)
    parts = [_text(2, 16, label, "axis")]
    for value in marks:
        parts.append(_line(left, y(value), right, y(value), "grid"))
        parts.append(_text(left - 8, y(value) + 4, f"{value:,.{digits}f}", "tick", "end"))
    return Markup("").join(parts)


def _x_axis(
    columns: Sequence[tuple[int, float]], foot: float, middle: float, width: float
) -> Markup:
    every = math.ceil(len(columns) * 26 / width)
    shown = [column for i, column in enumerate(columns) if i % every == 0]
    parts = [_text(x, foot + 17, str(n), "tick", "middle") for n, x in shown]
    parts.append(_text(middle, foot + 37, "Round", "axis", "middle"))
    return Markup("").join(parts)


def _marker(x: float, y: float, radius: float, circle: bool, style: str, *tip: Markup) -> Markup:
    # Two shapes, so that the series differ without colour.
    if circle:
        return _tag("circle", *tip, class_=style, cx=x, cy=y, r=radius)
    r = radius * 1.25
    corners = [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
    return _tag("polygon", *tip, class_=style, points=_points(corners))


def _svg(
    title: str,
    description: str,
    width: int,
    height: int,
    parts: Sequence[Markup],
    style: str = "chart",
) -> Markup:
    return _tag(
        "svg",
        _tag("title", title),
        _tag("desc", description),
        *parts,
        class_=style,
        role="img",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return _tag("line", class_=style, x1=x1, y1=y1, x2=x2, y2=y2)


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> Markup:
    return _tag("text", text, class_=style, x=x, y=y, text_anchor=anchor)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _tag(name: str, *children: str, **attributes: str | float) -> Markup:
    """Return one element; text and attribute values that are not Markup are escaped."""
    given = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), value if isinstance(value, str) else _short(value)
        )
        for key, value in attributes.items()
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, inner)
