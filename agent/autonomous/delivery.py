"""What a session delivers: the best round, and what its images changed, from the sealed test.

delivery.json lies beside the report, and is written anew with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.autonomous.status import DELIVERY
from agent.config.settings import Settings
from eval.delivery import Delivery, changes, delivered_round, score_sums, slices_that_matter
from eval.report.text import words
from eval.slices import slice_table
from memory.errors import DataError
from memory.files import write_json
from memory.records import Round
from tools import tasks
from tools.evaluate_real import read_predictions
from tools.targets import Target, label_names


def write_delivery(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> Delivery | None:
    """Compare the best round with images with round 0, and write what came of it.

    Args:
        folder: Of the session.
        settings: Of the session.
        target: Whose test split is read.
        past: All rounds.

    Returns:
        None without a round 0, without a measured round with images, and without their predictions.
    """
    delivery = _compared(folder, settings, target, past)
    if delivery is not None:
        write_json(folder / DELIVERY, delivery.to_json())
    return delivery


def _compared(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> Delivery | None:
    rule = settings.session.deliver
    delivered = delivered_round(past, rule)
    compared = delivered_round([r for r in past if r.number], rule)
    if delivered is None or compared is None or past[0].number or past[0].report is None:
        return None
    test, task, names = target.split("test"), tasks.build(settings.dstm.task), label_names
    try:
        one, other = (read_predictions(folder, r.number, "test") for r in (past[0], compared))
    except DataError:
        return None
    if not list(one.ids) == list(other.ids) == list(test.ids):
        return None
    scores = task.scores(one.values, test), task.scores(other.values, test)
    before, after = map(score_sums, scores)
    metric, average = words(past[0].report.main_metric), "Mean score of a photograph"
    if not task.needs:
        average = "Accuracy"
    # A task that does not say what photographs add to its main figure has the mean of their scores.
    if main_sums := getattr(task, "main_sums", None):
        before, after = (main_sums(p.values, test, names(target, task)) for p in (one, other))
    else:
        average = metric
    feedback = settings.feedback
    return Delivery(
        rule=rule,
        baseline=past[0].label,
        round=delivered.number,
        compared=compared.number,
        n_images=sum(r.batch.n_made for r in past if r.batch and r.number <= compared.number),
        changes=changes(
            (metric, before[0], after[0], before[1]),
            scores,
            average,
            slice_table(test.attributes, feedback.slices, max(1, feedback.n_min)),
            slices_that_matter(past),
        ),
    )
