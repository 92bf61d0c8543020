"""Records of a session as blocks: lines, tables, charts and pictures.

A record is turned into blocks once, here. The terminal (`eval.report.terminal`), the pages
(`blocks.html.j2`) and the context of a language model (`plain_text`) only draw them. Text in blocks
is plain: brackets, tags and control characters from data or from a model are shown as they stand.
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

# Slices of a report that are told in sentences.
_N_SLICES = 5
# Slices shown of those that became worse, and of those that became better.
_N_MOVED = 4
# Change of an attribute value's share of the images, 0..1, from which it is listed.
_LEAST_MOVE = 0.05
# Characters quoted of the name of a slice.
_MAX_SLICE = 80
_MAX_FAILURES = 10

Style = Literal["", "bold", "dim", "good", "warning", "error", "key"]


@dataclass(frozen=True)
class Line:
    """A line of text; the style "key" is that of names and settings."""

    text: str
    style: Style = ""


@dataclass(frozen=True)
class Rate:
    """A share, 0..1, drawn as a bar where there is room for one."""

    value: float


@dataclass(frozen=True)
class Picture:
    """A picture: a PNG file or the bytes of one."""

    content: Path | bytes
    caption: str

    @property
    def path(self) -> Path:
        """The file; raises ValueError for a picture that has none."""
        if isinstance(self.content, bytes):
            raise ValueError(f"the picture {self.caption!r} is no file")
        return self.content

    @property
    def png(self) -> bytes:
        """The bytes of the PNG file."""
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


# Several parts of a cell stand below one another; None: not known.
Part = str | Line | Rate | Estimate | Picture | None
Cell = Part | Sequence[Part]


@dataclass(frozen=True)
class Table:
    """A table, without a header where it has no names of columns.

    Attributes:
        columns: their names.
        rows: one cell per column each.
        title: shown above it, and read aloud.
        right: columns that are aligned right, e.g. numbers.
        keys: columns of names, in a fixed-width font where there is one.
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
    """A chart as SVG: for a wide page and, where it differs, for a phone; its figures in words."""

    title: str
    description: str
    wide: Markup
    narrow: Markup | None = None

    def __html__(self) -> str:
        """Return both for a page whose style sheet shows one of them."""
        if self.narrow is None:
            return self.wide
        form = Markup('<div class="wide">{}</div><div class="narrow">{}</div>')
        return form.format(self.wide, self.narrow)


Block = Line | Table | Chart | Picture


def plain_text(blocks: Iterable[Block]) -> str:
    """Return blocks as plain text, one line per line or row."""
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
    """Return the lines of a table in Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    return [f"| {' | '.join(map(cell_text, row))} |" for row in rows]


def cell_text(cell: Cell, missing: str = "") -> str:
    """Return a cell as plain text."""
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
        kept_rates: share of images that is expected to be kept, 0..1, by prompt id.
        seconds_per_image: expected time.
        nearest: the most similar earlier prompt, by prompt id.
        limit: number of prompts that are shown, None for all.
        by_id: whether prompts have their ids in place of the numbers that /edit takes.
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
    """Return who made a plan, why, and what it should change."""
    blocks: list[Block] = [Line(f"By {plan.author}: {one_line(plan.why) or 'no reason given'}")]
    if plan.hypothesis:
        change, name = plan.hypothesis.expected_change, plan.hypothesis.slice
        blocks.append(Line(f"It expects {signed(change)} on {one_line(name)}."))
    return blocks + ([Line(one_line(levers_text(plan.levers)))] if plan.levers else [])


def levers_text(levers: Levers) -> str:
    """Return in a sentence what a plan sets beside its prompts."""
    values = levers.model_dump(exclude={"earlier", "later"}, exclude_none=True)
    parts = [f"{name}={value:g}" for name, value in values.items()]
    for one in levers.earlier:
        name = slice_key(one.where) or "all images"
        rounds = ", ".join(map(str, one.rounds)) or "earlier ones"
        parts.append(f"{name} of rounds {rounds} count {one.weight:g}")
    parts += [f"the rounds after make {schedule_text(levers.later)}"] if levers.later else []
    return f"Levers: {', '.join(parts) or 'none'}."


def schedule_text(rounds: Sequence[LaterRound]) -> str:
    """Return the images of some rounds, and what they are for: "300 (60% wafer=poly), 200"."""
    texts = []
    for one in rounds:
        shares = " and ".join(f"{share:.0%} {name}" for name, share in one.shares.items())
        texts.append(f"{one.n_images}{f' ({shares})' if shares else ''}")
    return f"{', '.join(texts)} images"


def verdict_text(verdict: Verdict) -> str:
    """Return what was expected, what was measured, and whether the hypothesis held."""
    expected = f"{verdict.hypothesis.expected_change:+.3f} on '{verdict.hypothesis.slice}'"
    if verdict.change is None:
        return f"Expected {expected}; it was not measured before and after."
    text = f"Expected {expected}; measured {verdict.change:+.3f}"
    if effect := verdict.effect:
        text += f", of which {effect.value:+.3f} [{effect.low:+.3f}, {effect.high:+.3f}] by images"
    return f"{text}: it {verdict.outcome}."


def round_lines(done: Round, before: Report | None, audited: bool = True) -> list[Block]:
    """Return how a finished round came out; before: the report of the round before it."""
    assert done.report  # a round is done after its stages
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
    """Return the figures of a report and of its worst slices, all of them by default."""
    figures = [(k.replace("_", " "), v) for k, v in report.metrics.items() if k != "worst_slice"]
    figures += [(f"slice {one_line(s.key)}", s.accuracy) for s in _worst_first(report)[:n_slices]]
    rows = [[name, number(e.value), interval(e, 3), str(e.n)] for name, e in figures]
    columns = ("figure", "value", "95% interval", "n")
    return Table(columns, rows, title, columns[1:])


def report_lines(report: Report) -> list[Block]:
    """Return the overall figures and the worst five slices as sentences."""
    made = "" if report.round else ", whose model has seen no generated image,"
    head = (
        f"Report of round {report.round}{made} on real {report.split} photographs (95% intervals):"
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
    """Return the significant failures as sentences, the first `limit` of them."""
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
    """Return failing slices in their order."""
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
    """Return how the measured rounds came out; no table without any."""
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
    """Return how the figures and slices of two rounds, and the images asked for, differ."""
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
    # Round 0 asked for no images that others could be compared with.
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
    """Return what the memory retrieved, the most similar first."""
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
    # Of slices that are equally bad the report names one.
    worst = report.worst_slice
    return sorted(report.slices, key=lambda s: (s.accuracy.value, s.key != worst, s.key))


def fixable_text(failure: Failure) -> str:
    """Return whether more images can mend a failure."""
    if failure.fixable is None:
        return ""
    chance = failure.fixable.chance
    return (
        f"; {failure.fixable.verdict} (an image is drawn well and helps with chance "
        f"{number(chance.value, 2)}, {interval(chance, 2)})"
    )
