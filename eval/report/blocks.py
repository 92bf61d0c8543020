"""Records of a session as blocks: lines, tables, charts and pictures.

Records are converted to blocks here only. The terminal (`eval.report.terminal`), the pages
(`blocks.html.j2`) and the context of a language model (`plain_text`) render blocks. Text in blocks
is plain: brackets, tags and control characters from data or from a model are never interpreted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from eval.report.text import estimate_text, interval, number, p_value, percent, signed
from memory.records import (
    Estimate,
    Failure,
    LaterRound,
    Levers,
    Plan,
    Report,
    Round,
    SliceScore,
    Verdict,
    slice_key,
)
from prompts.printable import one_line
from prompts.render import quote

if TYPE_CHECKING:
    from memory.items import SearchHit

# Number of slices in `report_lines`.
_N_SLICES = 5
# Number of slices with the largest decrease, and with the largest increase, in `change_tables`.
_N_MOVED = 4
# Least change of an attribute value's share of the images, 0..1, to be listed.
_LEAST_MOVE = 0.05
# Largest number of characters of a quoted prompt.
_MAX_SLICE = 80
_MAX_FAILURES = 10

Style = Literal["", "bold", "dim", "good", "warning", "error", "key"]


@dataclass(frozen=True)
class Line:
    """A line of text; the style "key" marks names and settings."""

    text: str
    style: Style = ""


@dataclass(frozen=True)
class Rate:
    """A share, 0..1, drawn as a bar where the output supports one."""

    value: float


@dataclass(frozen=True)
class Picture:
    """A PNG picture, as the path of a file or as bytes."""

    content: Path | bytes
    caption: str

    @property
    def path(self) -> Path:
        """The path of the file; raises ValueError for a picture in memory."""
        if isinstance(self.content, bytes):
            raise ValueError(f"the picture {self.caption!r} is no file")
        return self.content

    @property
    def png(self) -> bytes:
        """The bytes of the PNG file."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


# Several parts of a cell are drawn one below the other; None: unknown.
Part = str | Line | Rate | Estimate | Picture | None
Cell = Part | Sequence[Part]


@dataclass(frozen=True)
class Table:
    """A table, without a header if `columns` is empty.

    Attributes:
        columns: names of the columns.
        rows: rows with one cell per column.
        title: caption, also read by screen readers.
        right: columns that are aligned right, e.g. numbers.
        keys: columns of names, in a fixed-width font where available.
        wide: columns of prose, which may be wrapped.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    right: Sequence[str] = ()
    keys: Sequence[str] = ()
    wide: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """A chart as SVG with its figures in words.

    Attributes:
        title: title of the chart.
        description: figures in words, for terminals and screen readers.
        wide: drawing for a wide page.
        narrow: drawing for a phone; None: the same as `wide`.
    """

    title: str
    description: str
    wide: Markup
    narrow: Markup | None = None

    def __html__(self) -> str:
        """Return both drawings for a page whose style sheet shows one of them."""
        if self.narrow is None:
            return self.wide
        form = Markup('<div class="wide">{}</div><div class="narrow">{}</div>')
        return form.format(self.wide, self.narrow)


Block = Line | Table | Chart | Picture


def plain_text(blocks: Iterable[Block]) -> str:
    """Return blocks as plain text, one text line per `Line` or table row."""
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Line):
            lines.append(block.text)
        elif isinstance(block, Table):
            lines += [block.title] if block.title else []
            heads = [list(block.columns)] if block.columns else []
            lines += [" | ".join(map(cell_text, row)) for row in [*heads, *block.rows]]
        else:
            lines.append(block.title if isinstance(block, Chart) else block.caption)
    return "\n".join(lines)


def markdown(table: Table) -> list[str]:
    """Return a table as lines of Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return [f"| {' | '.join(map(cell_text, row))} |" for row in rows]


def cell_text(cell: Cell, missing: str = "") -> str:
    """Return a cell as plain text; missing: text of an unknown value."""
    if cell is None:
        return missing
    if isinstance(cell, str):
        return cell
    if isinstance(cell, Line):
        return cell.text
    if isinstance(cell, Rate):
        return percent(cell.value)
    if isinstance(cell, Estimate):
        return estimate_text(cell)
    if isinstance(cell, Picture):
        return cell.caption
    return "\n".join(cell_text(part, missing) for part in cell)


def plan_table(
    plan: Plan,
    kept_rates: Mapping[str, float] | None = None,
    seconds_per_image: float | None = None,
    nearest: Mapping[str, str] | None = None,
    limit: int | None = None,
    by_id: bool = False,
) -> Table:
    """Return the prompts of a plan.

    Args:
        plan: the plan.
        kept_rates: expected share of images that the audit keeps, 0..1, by prompt id.
        seconds_per_image: expected time to generate one image.
        nearest: the most similar earlier prompt, by prompt id.
        limit: number of prompts to show, None for all.
        by_id: whether prompts are shown with their ids in place of the numbers that /edit takes.
    """
    has_classes = len({p.class_name for p in plan.prompts}) > 1
    columns = ["id" if by_id else "#", "prompt and attributes", "images"]
    columns += ["class"] if has_classes else []
    columns += ["kept"] if kept_rates else []
    columns += ["s"] if seconds_per_image is not None else []
    columns += ["nearest earlier prompt"] if nearest else []
    rows = []
    for i, prompt in enumerate(plan.prompts[:limit], 1):
        text = f"{one_line(prompt.text)}\n{values(prompt.attributes)}"
        row = [prompt.id if by_id else str(i), text, str(prompt.count)]
        row += [one_line(prompt.class_name)] if has_classes else []
        row += [number(kept_rates[prompt.id], 2)] if kept_rates else []
        row += (
            [number(seconds_per_image * prompt.count, 1)] if seconds_per_image is not None else []
        )
        row += [one_line(nearest.get(prompt.id, ""))] if nearest else []
        rows.append(row)
    title = f"Plan of round {plan.round}: {plan.n_images} images from {len(plan.prompts)} prompts"
    return Table(columns, rows, title, ("#", "images", "kept", "s"))


def plan_lines(plan: Plan) -> list[Block]:
    """Return author, reason, hypothesis and levers of a plan."""
    blocks: list[Block] = [Line(f"By {plan.author}: {one_line(plan.why) or 'no reason given'}")]
    if plan.hypothesis:
        change, name = plan.hypothesis.expected_change, plan.hypothesis.slice
        blocks.append(Line(f"It expects {signed(change)} on {one_line(name)}."))
    return blocks + ([Line(one_line(levers_text(plan.levers)))] if plan.levers else [])


def levers_text(levers: Levers) -> str:
    """Return the levers of a plan as a sentence."""
    values = levers.model_dump(exclude={"earlier", "later"}, exclude_none=True)
    parts = [f"{name}={value:g}" for name, value in values.items()]
    for one in levers.earlier:
        name = slice_key(one.where) or "all images"
        rounds = ", ".join(map(str, one.rounds)) or "earlier ones"
        parts.append(f"{name} of rounds {rounds} count {one.weight:g}")
    parts += [f"the rounds after make {schedule_text(levers.later)}"] if levers.later else []
    return f"Levers: {', '.join(parts) or 'none'}."


def schedule_text(rounds: Sequence[LaterRound]) -> str:
    """Return the scheduled images of later rounds, e.g. "300 (60% wafer=poly), 200 images"."""
    texts = []
    for one in rounds:
        shares = " and ".join(f"{share:.0%} {name}" for name, share in one.shares.items())
        texts.append(f"{one.n_images}{f' ({shares})' if shares else ''}")
    return f"{', '.join(texts)} images"


def verdict_text(verdict: Verdict) -> str:
    """Return the expected change, the measured change and the outcome as a sentence."""
    expected = f"{verdict.hypothesis.expected_change:+.3f} on '{verdict.hypothesis.slice}'"
    if verdict.change is None:
        return f"Expected {expected}; it was not measured before and after."
    text = f"Expected {expected}; measured {verdict.change:+.3f}"
    if effect := verdict.effect:
        text += f", of which {effect.value:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}] by images"
    return f"{text}: it {verdict.outcome}."


def round_lines(done: Round, before: Report | None, audited: bool = True) -> list[Block]:
    """Return the results of a finished round.

    Args:
        done: a round with a report.
        before: the report of the previous round.
        audited: whether generated images are audited.
    """
    assert done.report  # of a finished round
    metric = done.report.main_metric
    value = done.report.metrics[metric]
    line = f"Round {done.label} is done: {metric.replace('_', ' ')} {estimate_text(value)}"
    if before and metric in before.metrics:
        change = value.value - before.metrics[metric].value
        line += f", {signed(change)} since round {before.round}"
    blocks: list[Block] = [Line(line, "good")]
    if batch := done.batch:
        kept = f"{batch.n_kept} kept by the audit" if audited else "which nothing audits"
        blocks.append(Line(f"{batch.n_made} images made, {kept}."))
    if worst := done.report.worst:
        blocks.append(Line(f"Worst slice: {worst.key}, {estimate_text(worst.accuracy)}"))
    if done.verdict:
        blocks.append(Line(verdict_text(done.verdict)))
    return blocks


def report_table(report: Report, title: str, n_slices: int | None = None) -> Table:
    """Return the metrics of a report and its `n_slices` worst slices, None for all slices."""
    figures = [(k.replace("_", " "), v) for k, v in report.metrics.items() if k != "worst_slice"]
    figures += [(f"slice {one_line(s.key)}", s.accuracy) for s in _worst_first(report)[:n_slices]]
    rows = [[name, number(e.value), interval(e, 3), str(e.n)] for name, e in figures]
    columns = ("figure", "value", "95% interval", "n")
    return Table(columns, rows, title, columns[1:])


def report_lines(report: Report) -> list[Block]:
    """Return the metrics of a report and its five worst slices, one per line."""
    note = "" if report.round else ", whose model has seen no generated image,"
    head = (
        f"Report of round {report.round}{note} on real {report.split} photographs (95% intervals):"
    )
    return [
        Line(head),
        *(Line(f"- {name}: {estimate_text(e)}") for name, e in report.metrics.items()),
        *(
            Line(f"- slice {s.key}: accuracy {estimate_text(s.accuracy)}")
            for s in _worst_first(report)[:_N_SLICES]
        ),
    ]


def failure_lines(failures: Sequence[Failure], limit: int = _MAX_FAILURES) -> list[Block]:
    """Return the first `limit` significant failures, one per line."""
    lines: list[Block] = []
    for f in failures:
        if f.significant:
            error = f"error {estimate_text(f.error_rate)} against {f.rest_error_rate:.3f} elsewhere"
            near = "".join(f"; nearest prompt {quote(p, _MAX_SLICE)}" for p in f.prompts[:1])
            lines.append(Line(f"- {f.words}: {error}, q={f.q_value:.3g}{near}{fixable_text(f)}"))
    if len(lines) > limit:
        lines[limit:] = [Line(f"- and {len(lines) - limit} more")]
    return lines or [Line("No slice is significantly worse than the rest.")]


def failure_table(failures: Sequence[Failure], round_number: int) -> Table:
    """Return a table of failures in the given order."""
    rows: list[list[Cell]] = [
        [
            one_line(f.words, 80),
            f.wrong,
            f.error_rate,
            number(f.rest_error_rate),
            p_value(f.p_value),
            p_value(f.q_value) + (" *" if f.significant else ""),
        ]
        for f in failures
    ]
    columns = ("slice", "photographs", "error", "elsewhere", "p", "q")
    title = f"Failures after round {round_number} (* significantly worse than the rest)"
    return Table(columns, rows, title, ("elsewhere", "p", "q"), ("slice",))


def score_tables(past: Sequence[Round]) -> list[Block]:
    """Return a table of the main figure of the measured rounds; [] without any."""
    rows, metric = [], ""
    for done in past:
        if done.report and (value := done.report.main_figure):
            metric, worst = done.report.main_metric.replace("_", " "), done.report.worst
            rows.append(
                [
                    done.label,
                    number(value.value),
                    interval(value, 3),
                    str(done.batch.n_made) if done.batch else "",
                    f"{number(worst.accuracy.value)} {worst.key}" if worst else "",
                ]
            )
    columns = ["round", metric, "95% interval", "images", "worst slice"]
    return [Table(columns, rows, right=columns[:4])] if rows else []


def change_tables(first: Round, last: Round) -> list[Block]:
    """Return tables of the differences of two rounds in metrics, slices and requested images."""
    assert first.report and last.report  # of measured rounds
    columns = ["", f"round {first.label}", f"round {last.label}", "change"]
    figures: list[list[Cell]] = [
        [
            name.replace("_", " "),
            number(old.value),
            number(new.value),
            signed(new.value - old.value),
        ]
        for name, new in last.report.metrics.items()
        if (old := first.report.metrics.get(name))
    ]
    earlier = {score.key: score.accuracy for score in first.report.slices}
    moved = sorted(
        (s for s in last.report.slices if s.key in earlier),
        key=lambda s: s.accuracy.value - earlier[s.key].value,
    )
    shown = moved if len(moved) <= 2 * _N_MOVED else moved[:_N_MOVED] + moved[-_N_MOVED:]
    slices: list[list[Cell]] = [
        [s.key, earlier[s.key], s.accuracy, signed(s.accuracy.value - earlier[s.key].value)]
        for s in shown
    ]
    # Round 0 requests no images, so there is nothing to compare.
    plans = [r.plan for r in (first, last) if r.plan]
    before, now = map(value_shares, plans) if len(plans) == 2 else ({}, {})
    change = {key: now.get(key, 0.0) - before.get(key, 0.0) for key in sorted({*before, *now})}
    images: list[list[Cell]] = [
        [key, percent(before.get(key, 0)), percent(now.get(key, 0)), percent(change[key], True)]
        for key in sorted(change, key=lambda key: -change[key])
        if abs(change[key]) >= _LEAST_MOVE
    ]
    parts = {
        "Figures on feedback": figures,
        "Slices that changed most": slices,
        "Images asked for": images,
    }
    return [Table(columns, rows, title, columns[1:]) for title, rows in parts.items() if rows]


def hit_table(hits: Sequence[SearchHit]) -> Table:
    """Return the hits of a memory search as a table, in the given order."""
    rows = [
        [
            number(hit.similarity, 2),
            hit.item.kind,
            hit.item.session,
            str(hit.item.round),
            one_line(hit.item.describe(), 300),
        ]
        for hit in hits
    ]
    return Table(["similarity", "kind", "session", "round", "what"], rows)


def values(attributes: Mapping[str, str]) -> str:
    """Return attributes on one line, e.g. "wafer=poly light=dark"."""
    return " ".join(f"{key}={value}" for key, value in attributes.items())


def value_shares(plan: Plan) -> dict[str, float]:
    """Return the share of a plan's images, 0..1, by "attribute=value"."""
    shares: dict[str, float] = {}
    for prompt in plan.prompts:
        for key, value in prompt.attributes.items():
            name = f"{key}={value}"
            shares[name] = shares.get(name, 0.0) + prompt.count / plan.n_images
    return shares


def _worst_first(report: Report) -> list[SliceScore]:
    # Of several slices with the lowest score, the report's worst slice comes first.
    worst = report.worst_slice
    return sorted(report.slices, key=lambda s: (s.accuracy.value, s.key != worst, s.key))


def fixable_text(failure: Failure) -> str:
    """Return the verdict on whether more images can fix a failure; "" if unknown."""
    if failure.fixable is None:
        return ""
    chance = failure.fixable.chance
    return (
        f"; {failure.fixable.verdict} (an image is drawn well and helps with chance "
        f"{number(chance.value, 2)}, {interval(chance, 2)})"
    )
