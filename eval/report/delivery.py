"""The delivery of a session as blocks, for the report, the card of `best/` and the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from eval.delivery import MIN_PHOTOGRAPHS, Delivery
from eval.report.blocks import Block, Cell, Line, Style, Table
from eval.report.text import estimate_text, number, overlap, plural, signed, words
from memory.records import Estimate, Round

RULES = {
    "main": "the main figure",
    "worst5": "the mean of the five worst slices",
    "balanced": "the mean of the main figure and the five worst slices",
}
_STYLES: dict[str, Style] = {"helped": "good", "undecided": "warning", "harmed": "error"}


def delivery_title(delivery: Delivery) -> str:
    """Return the title that names the two models compared."""
    first_model = "Your model"
    if "model" not in delivery.baseline:
        count = f"{delivery.n_photographs} " if delivery.n_photographs else ""
        first_model = f"Your {count}photographs alone"
    return f"{first_model} → with {plural(delivery.n_images, 'shaped image')}"


def delivery_table(delivery: Delivery) -> Table:
    """Return the figures of round 0 and of the compared round on the sealed test."""
    rows: list[list[Cell]] = [
        [
            each.name,
            number(each.before),
            number(each.after),
            _difference_text(each.difference),
        ]
        for each in delivery.changes
    ]
    ends = (f"Round {delivery.baseline}", f"Round {delivery.compared}")
    columns = ("On the sealed test", *ends, "Difference (95%)")
    return Table(columns, rows, delivery_title(delivery), ends, columns[:1])


def _difference_text(difference: Estimate) -> str:
    if difference.n < MIN_PHOTOGRAPHS:  # the interval is -1 to 1
        return f"{signed(difference.value)} (n={difference.n})"
    return estimate_text(difference, sign=True)


def delivery_line(delivery: Delivery) -> Line:
    """Return whether images helped and which round is delivered, as sentences."""
    main = delivery.changes[0]
    change = f"{main.name} {_difference_text(main.difference)}"
    undecided = f"No significant difference: {change}."
    if main.difference.n < MIN_PHOTOGRAPHS:
        undecided = (
            f"Too few test photographs to test the difference (at least {MIN_PHOTOGRAPHS} are "
            f"needed): {change}."
        )
    outcome = {
        "helped": f"The images helped: {change}.",
        "undecided": undecided,
        "harmed": f"The images harmed: {change}.",
    }[delivery.outcome]
    rule = f"by {RULES[delivery.rule]} on feedback"
    chosen = (
        f"Round {delivery.round} is delivered: no other round is better {rule} by more than one "
        "standard error, and among the rounds that are as good it has the fewest images."
    )
    if not delivery.round:
        chosen = (
            f"Round {delivery.baseline} is delivered: no round with images is better {rule} by "
            "more than one standard error."
        )
    return Line(f"{outcome} {chosen}", _STYLES[delivery.outcome])


def delivery_blocks(delivery: Delivery) -> list[Block]:
    """Return the table and the sentences of a delivery."""
    return [delivery_table(delivery), delivery_line(delivery)]


def baseline_lines(past: Sequence[Round]) -> list[Block]:
    """Return the comparison of the latest round with round 0 on feedback as a line."""
    measured = [r for r in past if r.main_figure]
    if len(measured) < 2 or measured[0].number:
        return [Line("Nothing can be compared yet: it takes round 0 and a round with images.")]
    first, last = measured[0], measured[-1]
    assert first.report and last.report  # chosen so
    metric = first.report.main_metric
    old, new = first.report.metrics[metric], last.report.metrics[metric]
    n_images = sum(r.batch.n_made for r in past if r.batch)
    certain = "overlap: chance may explain it" if overlap(old, new) else "do not overlap"
    return [
        Line(
            f"{words(metric)} on feedback: round {first.label} {estimate_text(old)}; round "
            f"{last.label}, {plural(n_images, 'image')} made, {estimate_text(new)}, "
            f"{signed(new.value - old.value)}. The intervals {certain}."
        )
    ]
