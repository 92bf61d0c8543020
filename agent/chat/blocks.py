"""What is shown of a session, free of any user interface: lines, tables and pictures.

A terminal and a web page draw the same blocks. All text in them is plain: what comes from data or
from a model may hold brackets, tags or control characters, and is shown as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agent.loop.approval import Question
from agent.loop.context import say_verdict
from agent.loop.expectations import Expectation
from agent.loop.trials import say_trial
from agent.steering.preferences import Addition, Effect, Wish
from memory.records import Estimate, Failure, Plan, Report, Round
from prompts.printable import one_line

if TYPE_CHECKING:
    from memory.chroma import Hit

# Slices that are shown of those that became worse, and of those that became better.
_N_MOVED = 4
# Of a plan's images, from which on a value's share counts as changed.
_MOVED = 0.05

Style = Literal["", "bold", "dim", "good", "warning", "error"]


@dataclass(frozen=True)
class Line:
    """A line of text."""

    text: str
    style: Style = ""


@dataclass(frozen=True)
class Grid:
    """A table; `right` are the columns whose figures stand right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    right: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG file."""

    path: Path
    caption: str


Block = Line | Grid | Picture


def say_estimate(value: Estimate) -> str:
    """Say a figure with its interval."""
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f}, n={value.n})"


def plan_blocks(question: Question, wanted: Sequence[Wish]) -> list[Block]:
    """Show the plan that a question is about, what wishes did to it, and what may be done."""
    plan, expectation = question.plan, question.expectation
    assert plan is not None and expectation is not None  # of questions about plans
    blocks: list[Block] = [
        plan_grid(plan, expectation, question.nearest),
        Line(_say_expected(expectation), "dim"),
    ]
    blocks += plan_reasons(plan)
    held = {wish.id: wish for wish in wanted}
    blocks += [
        Line(f"Wish {shift.wish} {held[shift.wish].say()}: {shift.before:.0%} -> {shift.after:.0%}")
        for shift in (question.made.shifts if question.made else ())
        if shift.wish in held
    ]
    blocks += [Line(f"Warning: {one_line(text)}", "warning") for text in plan.warnings]
    blocks.append(
        Line(
            'Make this? /approve, /edit N count 12, /edit N remove, /add "prompt" x8, /reject WHY',
            "bold",
        )
    )
    return blocks


def plan_grid(
    plan: Plan, expectation: Expectation | None = None, nearest: dict[str, str] | None = None
) -> Grid:
    """Show a plan as a table, and beside each prompt what is expected of it where that is known."""
    expected = {p.prompt_id: p for p in expectation.prompts} if expectation else {}
    per_image = None
    if expectation and expectation.seconds is not None:
        per_image = expectation.seconds / plan.n_images
    has_classes = len({p.class_name for p in plan.prompts}) > 1
    columns = ["#", "prompt and attributes", "images"]
    columns += ["class"] if has_classes else []
    columns += ["kept"] if expected else []
    columns += ["s"] if per_image is not None else []
    columns += ["nearest earlier prompt"] if nearest else []
    rows = []
    for number, prompt in enumerate(plan.prompts, 1):
        values = " ".join(f"{key}={value}" for key, value in prompt.attributes.items())
        row = [str(number), f"{one_line(prompt.text)}\n{values}", str(prompt.count)]
        row += [prompt.class_name] if has_classes else []
        row += [f"{expected[prompt.id].kept_rate:.2f}"] if expected else []
        row += [f"{per_image * prompt.count:.1f}"] if per_image is not None else []
        row += [one_line((nearest or {}).get(prompt.id, ""))] if nearest else []
        rows.append(row)
    title = f"Plan of round {plan.round}: {plan.n_images} images from {len(plan.prompts)} prompts"
    return Grid(columns, rows, title, ("#", "images", "kept", "s"))


def plan_reasons(plan: Plan) -> list[Block]:
    """Say who made a plan, why, and what it is to change."""
    blocks: list[Block] = [Line(f"By {plan.author}: {one_line(plan.why) or 'no reason given'}")]
    if plan.hypothesis:
        change, name = plan.hypothesis.expected_change, plan.hypothesis.slice
        blocks.append(Line(f"It expects {change:+.3f} on {one_line(name)}."))
    return blocks + [Line(one_line(say_trial(trial))) for trial in plan.trials]


def round_blocks(done: Round, before: Report | None, effects: Sequence[Effect]) -> list[Block]:
    """Say how a round came out, and what wishes have done so far."""
    assert done.batch and done.report  # a round is done after its stages
    metric = done.report.main_metric
    value = done.report.metrics[metric]
    line = f"Round {done.number} is done: {metric.replace('_', ' ')} {say_estimate(value)}"
    if before and metric in before.metrics:
        line += f", {value.value - before.metrics[metric].value:+.3f} since round {before.round}"
    blocks: list[Block] = [Line(line, "good")]
    made, kept = done.batch.n_made, done.batch.n_kept
    blocks.append(Line(f"{made} images made, {kept} kept by the audit."))
    worst = next((s for s in done.report.slices if s.key == done.report.worst_slice), None)
    if worst:
        blocks.append(Line(f"Worst slice: {worst.key}, {say_estimate(worst.accuracy)}"))
    if done.verdict:
        blocks.append(Line(say_verdict(done.verdict)))
    return blocks + [Line(f"Wish {effect.say()}") for effect in effects]


def failure_grid(failures: Sequence[Failure], number: int) -> Grid:
    """Show failing slices, significant ones first."""
    rows = [
        [
            one_line(f.words, 80),
            f"{f.error_rate.value:.3f}",
            f"{f.error_rate.low:.3f} to {f.error_rate.high:.3f}",
            str(f.n),
            f"{f.rest_error_rate:.3f}",
            f"{f.q_value:.2g}" + (" *" if f.significant else ""),
        ]
        for f in failures
    ]
    columns = ("slice", "error", "95% interval", "n", "elsewhere", "q")
    title = f"Failures after round {number} (* significantly worse than the rest)"
    return Grid(columns, rows, title, columns[1:])


def wish_grid(
    wanted: Sequence[Wish], extra: Sequence[Addition], effects: Sequence[Effect]
) -> list[Block]:
    """Show the wishes that hold and what they have done."""
    if not wanted and not extra:
        return []
    known = {effect.wish.id: effect for effect in effects}
    rows = []
    for wish in wanted:
        said = known[wish.id].say().partition(": ")[2] if wish.id in known else "not measured yet"
        rows.append([wish.id, wish.say(), f"round {wish.since}", said])
    for addition in extra:
        prompt = addition.prompt
        text = one_line(prompt.text, 80) or " ".join(
            f"{k}={v}" for k, v in prompt.attributes.items()
        )
        rows.append([addition.id, f"add {prompt.count} of {text}", "next plan", ""])
    return [Grid(["id", "wish", "since", "effect"], rows, "Wishes (/forget ID removes one)")]


def score_grid(past: Sequence[Round]) -> list[Block]:
    """Show how the rounds came out."""
    rows = []
    for done in past:
        if done.report and done.report.metrics:
            value = done.report.metrics[done.report.main_metric]
            worst = next((s for s in done.report.slices if s.key == done.report.worst_slice), None)
            rows.append(
                [
                    str(done.number),
                    f"{value.value:.3f}",
                    f"{value.low:.3f} to {value.high:.3f}",
                    str(done.batch.n_made) if done.batch else "",
                    f"{worst.accuracy.value:.3f} {worst.key}" if worst else "",
                ]
            )
    if not rows:
        return []
    metric = next(r.report.main_metric for r in past if r.report).replace("_", " ")
    columns = ["round", metric, "95% interval", "images", "worst slice"]
    return [Grid(columns, rows, right=columns[:4])]


def change_grids(first: Round, last: Round) -> list[Block]:
    """Show how the figures and slices of two rounds, and the images asked for, differ."""
    assert first.report and last.report and first.plan and last.plan  # of measured rounds
    columns = ["", f"round {first.number}", f"round {last.number}", "change"]
    figures = [
        [
            name.replace("_", " "),
            f"{old.value:.3f}",
            f"{new.value:.3f}",
            f"{new.value - old.value:+.3f}",
        ]
        for name, new in last.report.metrics.items()
        if (old := first.report.metrics.get(name))
    ]
    earlier = {score.key: score.accuracy for score in first.report.slices}
    moved = [
        (score.accuracy.value - earlier[score.key].value, score)
        for score in last.report.slices
        if score.key in earlier
    ]
    moved.sort(key=lambda item: item[0])
    shown = moved if len(moved) <= 2 * _N_MOVED else moved[:_N_MOVED] + moved[-_N_MOVED:]
    slices = [
        [
            score.key,
            say_estimate(earlier[score.key]),
            say_estimate(score.accuracy),
            f"{change:+.3f}",
        ]
        for change, score in shown
    ]
    asked = _shares(first.plan), _shares(last.plan)
    names = sorted({*asked[0], *asked[1]}, key=lambda n: asked[0].get(n, 0) - asked[1].get(n, 0))
    images = []
    for name in names:
        before, now = asked[0].get(name, 0.0), asked[1].get(name, 0.0)
        if abs(now - before) >= _MOVED:
            images.append([name, f"{before:.0%}", f"{now:.0%}", f"{now - before:+.0%}"])
    blocks: list[Block] = [Grid(columns, figures, "Figures on feedback", columns[1:])]
    if slices:
        blocks.append(Grid(columns, slices, "Slices that changed most", columns[1:]))
    if images:
        blocks.append(Grid(columns, images, "Images asked for", columns[1:]))
    return blocks


def _shares(plan: Plan) -> dict[str, float]:
    """Return the share of a plan's images by "attribute=value"."""
    found: dict[str, float] = {}
    for prompt in plan.prompts:
        for key, value in prompt.attributes.items():
            name = f"{key}={value}"
            found[name] = found.get(name, 0.0) + prompt.count / max(1, plan.n_images)
    return found


def hit_grid(hits: Sequence[Hit]) -> Grid:
    """Show what the memory has found."""
    rows = [
        [
            f"{hit.similarity:.2f}",
            hit.item.kind,
            hit.item.session,
            str(hit.item.round),
            one_line(hit.item.describe(), 300),
        ]
        for hit in hits
    ]
    return Grid(["similarity", "kind", "session", "round", "what"], rows)


def _say_expected(expectation: Expectation) -> str:
    n_kept = expectation.kept_rate * expectation.n_images
    said = f"Expected: about {n_kept:.0f} of {expectation.n_images} images kept"
    if expectation.seconds is not None:
        said += f", {expectation.seconds:.0f} s to draw"
    changes = [f"{s.slice} {s.change:+.3f}" for s in expectation.slices[:3] if abs(s.change) > 5e-4]
    if changes:
        said += f"; changes {', '.join(changes)}"
    return f"{said}."
