"""Charts as inline SVG, coloured by the style sheet of the page.

Lengths are in SVG units, equal to CSS pixels where a chart is shown at its own width. Every mark
has a <title>, so that its exact figures are shown on hover and read by screen readers without a
script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from markupsafe import Markup, escape

from eval.report.blocks import Chart
from eval.report.text import estimate_text, interval, number, shorten, signed
from memory.records import Estimate

N_COLOURS = 6
WIDE, HALF, NARROW, SMALL = 980, 470, 350, 320
"""Widths of charts on a page, on half of a page, on a phone, and in a small panel."""
_CHARACTER = 6.3
_LABEL_GAP = 16.0
_ROOMY = 640

Place = Callable[[float], float]
Drawing = tuple[int, list[Markup]]
"""Height and marks of a chart."""


@dataclass(frozen=True)
class Series:
    """A line of a line chart: an estimate per round, drawn with a band or with whiskers."""

    name: str
    points: Mapping[int, Estimate]
    style: str
    band: bool

    @property
    def last(self) -> Estimate:
        """The estimate of the last round."""
        return self.points[max(self.points)]


@dataclass(frozen=True)
class Layer:
    """A layer of a stacked bar chart: a value per column, in one colour."""

    name: str
    values: Sequence[float]
    style: str


@dataclass(frozen=True)
class BeforeAfter:
    """A row of a row chart: a figure before and after; None: not measured."""

    label: str
    before: Estimate | None
    after: Estimate | None

    @property
    def change(self) -> float | None:
        """After minus before; None if one is missing."""
        return self.after.value - self.before.value if self.before and self.after else None


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    rounds: Sequence[int],
    y_label: str,
    widths: Sequence[int] = (WIDE, NARROW),
) -> Chart:
    """Draw estimates by round.

    `rounds` spans the axis, including rounds without a measurement. Lines are labelled at their
    ends where there is room, else above the plot.
    """
    labels = [f"{s.name} {number(s.last.value)}" for s in series]
    every = [e for s in series for e in s.points.values()]
    marks = ticks(min(e.low for e in every), max(e.high for e in every), 6)
    first, last = min(rounds), max(rounds)

    def draw(width: int) -> Drawing:
        beside, height = width >= _ROOMY, 340 if width >= _ROOMY else 300
        right = width - (max(len(label) for label in labels) * _CHARACTER + 26 if beside else 12)
        left, top, foot = 44.0, 34.0 if beside else 58.0, height - 46.0
        x, y = _scale(first, last, left, right), _scale(marks[0], marks[-1], foot, top)
        parts = [_y_axis(marks, y, left, right, y_label)]
        parts.append(_x_axis([(n, x(n)) for n in rounds], foot, left, right))
        dots = []
        for i, s in enumerate(series):
            # With a single round, the points of the series would coincide.
            aside = 24.0 * i if last == first else 0.0
            points = [(n, x(n) + aside, e) for n, e in sorted(s.points.items())]
            if s.band and len(points) > 1:
                outline = [(at, y(e.high)) for _, at, e in points]
                outline += [(at, y(e.low)) for _, at, e in reversed(points)]
                parts.append(_tag("polygon", class_=f"band {s.style}", points=_points(outline)))
            else:
                whisker = f"whisker {s.style}"
                parts += [_line(at, y(e.low), at, y(e.high), whisker) for _, at, e in points]
            path = _points([(at, y(e.value)) for _, at, e in points])
            parts.append(_tag("polyline", class_=f"line {s.style}", points=path))
            radius = 4.5 if (right - left) / len(rounds) > 24 else 3
            for n, at, e in points:
                tip = _tag("title", f"{s.name}, round {n}: {estimate_text(e)}")
                dots.append(_marker(at, y(e.value), radius, s.band, f"dot {s.style}", tip))
        if beside:
            ends = spread([y(s.last.value) for s in series], _LABEL_GAP, top, foot)
            places = [(right + 16, at) for at in ends]
        else:
            starts = accumulate((len(label) * _CHARACTER + 34 for label in labels), initial=8.0)
            places = [(start, 36.0) for start in starts]
        for s, label, (start, at) in zip(series, labels, places, strict=False):
            parts.append(_marker(start, at, 4, s.band, f"dot {s.style}"))
            parts.append(_text(start + 9, at + 4, label, "label"))
        return height, [*parts, *dots]

    return _chart(title, description, widths, draw)


def stacked_bars(
    title: str,
    description: str,
    columns: Sequence[int],
    layers: Sequence[Layer],
    y_label: str,
    widths: Sequence[int] = (SMALL,),
    form: Callable[[float], str] = str,
) -> Chart:
    """Draw one bar per round, stacked from the first layer up; `form` formats a value."""
    totals = [sum(s.values[i] for s in layers) for i in range(len(columns))]
    marks = ticks(0, max([*totals, 1e-9]), 4)

    def draw(width: int) -> Drawing:
        height = 210 if width == SMALL else 260
        legend = min(max(len(s.name) for s in layers) * _CHARACTER + 36, width * 0.42)
        left, right, top, foot = 44.0, width - legend, 30.0, height - 44.0
        slot = (right - left) / len(columns)
        bar, y = min(slot * 0.74, 46.0), _scale(0, marks[-1], foot, top)
        centres = [(n, left + slot * (i + 0.5)) for i, n in enumerate(columns)]
        parts = [_y_axis(marks, y, left, right, y_label), _x_axis(centres, foot, left, right)]
        below, wanted = [0.0] * len(columns), []
        for s in layers:
            wanted.append(y(below[-1] + s.values[-1] / 2))
            for i, (n, centre) in enumerate(centres):
                above = below[i] + s.values[i]
                if s.values[i] > 0:
                    share = f"{form(s.values[i])} of {form(totals[i])}"
                    tip = _tag("title", f"Round {n}, {s.name}: {share}")
                    # The gap of one pixel separates neighbours for colour-blind readers.
                    tall = max(y(below[i]) - y(above) - 1, 0.5)
                    parts.append(_bar(s.style, centre - bar / 2, y(above), bar, tall, tip))
                below[i] = above
        room = int((legend - 28) / _CHARACTER) + 1
        for s, at in zip(layers, spread(wanted, _LABEL_GAP, top, foot), strict=True):
            parts.append(_bar(s.style, right + 8, at - 5, 10, 10))
            parts.append(_text(right + 23, at + 4, shorten(s.name, room), "label"))
        return height, parts

    return _chart(title, description, widths, draw)


def row_chart(
    title: str,
    description: str,
    rows: Sequence[BeforeAfter],
    x_label: str,
    reference: tuple[str, float] | None = None,
    is_change: bool = False,
    widths: Sequence[int] = (WIDE, NARROW),
) -> Chart:
    """Draw before (ring) and after (dot) of every row with intervals, on a scale from 0 to 1.

    With `is_change` the figures are differences, and the scale encloses all of them with a line at
    0. Labels are placed left of the scale where there is room, else above their row.
    """
    marks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    if is_change:
        every = [e for row in rows for e in (row.before, row.after) if e]
        marks = ticks(min(0, *(e.low for e in every)), max(0, *(e.high for e in every)), 6)
    form: Callable[[float], str] = signed if is_change else lambda value: number(value, 1)

    def draw(width: int) -> Drawing:
        beside = width >= _ROOMY
        longest = max((len(row.label) for row in rows), default=0)
        left = min(330.0, longest * _CHARACTER + 30) if beside else 14.0
        right = width - 66.0
        top, row_h = 34.0, 34.0 if beside else 50.0
        foot = top + row_h * len(rows)
        room = int(((left - 16) if beside else width - 12) / _CHARACTER)
        scale = _scale(marks[0], marks[-1], left, right)

        def x(value: float) -> float:
            return scale(min(max(value, marks[0]), marks[-1]))

        parts = []
        for value in marks:
            style = "reference" if is_change and not value else "grid"
            parts.append(_line(x(value), top - 4, x(value), foot, style))
            parts.append(_text(x(value), foot + 16, form(value), "tick", "middle"))
        parts.append(_text((left + right) / 2, foot + 36, x_label, "axis", "middle"))
        if reference:
            name, value = reference
            parts.append(_line(x(value), top - 8, x(value), foot, "reference"))
            parts.append(_text(x(value), top - 14, f"{name} {number(value, 2)}", "label", "middle"))
        for i, row in enumerate(rows):
            mid = top + row_h * (i + 0.5) + (0 if beside else 9)
            apart = 3.5 if row.before and row.after else 0
            tip = f"before {estimate_text(row.before)}, after {estimate_text(row.after)}"
            if is_change:
                tip = estimate_text(row.after, sign=True)
            group = [_tag("title", f"{row.label}: {tip}")]
            for e, style, at in ((row.before, "before", -apart), (row.after, "after", apart)):
                if e:
                    group.append(_line(x(e.low), mid + at, x(e.high), mid + at, f"range {style}"))
            if row.before and row.after:
                group.append(_line(x(row.before.value), mid, x(row.after.value), mid, "change"))
            if row.before:
                group.append(_tag("circle", class_="ring", cx=x(row.before.value), cy=mid, r=5))
            if row.after:
                group.append(_tag("circle", class_="dot s0", cx=x(row.after.value), cy=mid, r=5.5))
            label = shorten(row.label, room)
            if beside:
                group.append(_text(left - 12, mid + 4, label, "label", "end"))
            else:
                group.append(_text(left - 10, mid - 15, label, "label"))
            change = row.after.value if is_change and row.after else row.change
            if change is not None:
                shown = signed(change, 3 if is_change else 2)
                group.append(_text(width - 4, mid + 4, shown, "label", "end"))
            parts.append(_tag("g", *group))
        return round(foot + 46), parts

    return _chart(title, description, widths, draw)


def calibration_chart(
    title: str, points: Sequence[tuple[float, float]], means: Sequence[tuple[float, Estimate]]
) -> Chart:
    """Draw measured against expected changes, with means of bins as whiskers and the diagonal."""
    xs, ys = [p[0] for p in points] + [0.0], [p[1] for p in points] + [0.0]
    ys += [bound for _, e in means for bound in (e.low, e.high)]
    across, up = ticks(min(xs), max(xs), 5), ticks(min(ys), max(ys), 6)
    height = 340
    left, right, top, foot = 52.0, HALF - 14.0, 34.0, height - 46.0
    x, y = _scale(across[0], across[-1], left, right), _scale(up[0], up[-1], foot, top)
    parts = [_y_axis(up, y, left, right, "measured change")]
    parts += [
        _text(x(v), foot + 17, f"{v:.3f}".rstrip("0").rstrip("."), "tick", "middle") for v in across
    ]
    parts.append(_text((left + right) / 2, foot + 37, "expected change", "axis", "middle"))
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
    described = "Expected against measured changes of slices; on the diagonal they agree."
    return Chart(title, described, _svg(title, described, HALF, height, parts))


def whisker_bar(estimate: Estimate, style: str, title: str) -> Markup:
    """Draw an estimate in 0..1 as a small bar with its interval, for table cells."""
    width, mid = 64.0, 7.0
    value, low, high = (
        min(max(v, 0.0), 1.0) * width for v in (estimate.value, estimate.low, estimate.high)
    )
    parts = [
        _tag("rect", class_="track", x=0, y=3, width=width, height=8),
        _bar(style, 0, 3, value, 8),
        _line(low, mid, high, mid, "interval"),
    ]
    return _svg(title, f"95% interval {interval(estimate)}", int(width), 14, parts, "mini")


def ticks(low: float, high: float, n_steps: int) -> list[float]:
    """Return about `n_steps` + 1 round values whose ends enclose `low` and `high`."""
    span = max(high - low, 0.02 if high <= 1 else abs(high) * 0.02)
    rough = span / n_steps
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [round(k * step, 10) for k in range(first, last + 1)]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions of labels at least `gap` apart, in the order of `wanted`.

    They keep the order of the wanted positions and, if there is room, lie in low..high.
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


def _scale(low: float, high: float, start: float, end: float) -> Place:
    """Return the function from values to positions on an axis; the middle if low equals high."""
    if low == high:
        return lambda value: (start + end) / 2
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _y_axis(marks: Sequence[float], y: Place, left: float, right: float, label: str) -> Markup:
    step = marks[1] - marks[0]
    digits = next((d for d in range(4) if abs(round(step, d) - step) < 1e-9), 4)
    parts = [_text(2, 16, label, "axis")]
    for value in marks:
        parts.append(_line(left, y(value), right, y(value), "grid"))
        parts.append(_text(left - 8, y(value) + 4, f"{value:,.{digits}f}", "tick", "end"))
    return Markup("").join(parts)


def _x_axis(columns: Sequence[tuple[int, float]], foot: float, left: float, right: float) -> Markup:
    every = math.ceil(len(columns) * 26 / (right - left))
    parts = [_text(x, foot + 17, str(n), "tick", "middle") for n, x in columns[::every]]
    parts.append(_text((left + right) / 2, foot + 37, "Round", "axis", "middle"))
    return Markup("").join(parts)


def _marker(x: float, y: float, radius: float, circle: bool, style: str, *tip: Markup) -> Markup:
    # Two shapes, so that series can be distinguished without colour.
    if circle:
        return _tag("circle", *tip, class_=style, cx=x, cy=y, r=radius)
    r = radius * 1.25
    corners = [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
    return _tag("polygon", *tip, class_=style, points=_points(corners))


def _chart(
    title: str, description: str, widths: Sequence[int], draw: Callable[[int], Drawing]
) -> Chart:
    drawings = [_svg(title, description, width, *draw(width)) for width in widths]
    return Chart(title, description, *drawings)


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


def _bar(style: str, x: float, y: float, width: float, height: float, *tip: Markup) -> Markup:
    return _tag("rect", *tip, class_=f"bar {style}", x=x, y=y, width=width, height=height)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return _tag("line", class_=style, x1=x1, y1=y1, x2=x2, y2=y2)


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> Markup:
    return _tag("text", text, class_=style, x=x, y=y, text_anchor=anchor)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _tag(name: str, *children: str, **attributes: str | float) -> Markup:
    """Return an element; text and attribute values that are not Markup are escaped."""
    given = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), value if isinstance(value, str) else _short(value)
        )
        for key, value in attributes.items()
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, inner)
