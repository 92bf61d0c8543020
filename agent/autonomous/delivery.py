"""What a session delivers: the best round, and what its images changed, from the sealed test.

delivery.json lies beside the report, and is written anew with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.autonomous.status import DELIVERY
from agent.config.settings import Settings
from agent.session.folder import Session
from agent.session.limits import Ending
from eval.delivery import (
    Delivery,
    Figure,
    change,
    changes,
    delivered_round,
    rule_sums,
    score_sums,
    slice_sums,
    slices_that_matter,
)
from eval.report.text import estimate_text, words
from eval.slices import slice_table
from memory.errors import DataError
from memory.files import write_json
from memory.records import Round
from tools import tasks
from tools.data.samples import Samples
from tools.evaluate_real import read_predictions
from tools.targets import Target, label_names
from tools.tasks import Task


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


def chosen_round(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> Round | None:
    """Return the round that is delivered, None without a measured one.

    The best by `session.deliver` on feedback or, of rounds that are as good within one standard
    error of the paired difference (the rule of Breiman et al. 1984), that with the fewest images:
    the highest of several noisy figures is often no better than round 0.
    """
    rule = settings.session.deliver
    best = delivered_round(past, rule)
    feedback, task = target.split("feedback"), tasks.build(settings.dstm.task)
    by = settings.feedback.slices
    slices = slice_table(feedback.attributes, by, max(1, settings.feedback.n_min))

    def sums_of(number: int) -> tuple[NDArray[np.float64], Figure]:
        values = _on(feedback, folder, number)
        main = _main_sums(task, values, feedback, label_names(target, task))
        worst = slice_sums(task.scores(values, feedback), list(slices.values()))
        return rule_sums(rule, main, worst) if slices else main

    if best is None:
        return None
    try:
        after, figure = sums_of(best.number)
        for earlier in past:
            if earlier.number == best.number:
                break
            if earlier.training is None or earlier.report is None:
                continue
            difference = change(rule, sums_of(earlier.number)[0], after, figure).difference
            if difference.value <= (difference.high - difference.low) / 4:
                return earlier
    except DataError:
        pass
    return best


def no_gain(session: Session, target: Target) -> Ending | None:
    """Return the ending by `limits.no_gain`, where it forbids another round.

    None of the last rounds is better than the best one before them, by the interval of their paired
    difference on the feedback photographs.
    """
    n, settings = session.settings.limits.no_gain, session.settings
    past = [r for r in session.rounds() if r.number <= session.n_done()]
    if n is None or len(past) <= n:
        return None
    best = delivered_round(past[:-n], "main")
    if best is None or any(after.report is None for after in past[-n:]):
        return None
    task, feedback = tasks.build(settings.dstm.task), target.split("feedback")
    class_names = label_names(target, task)

    def sums_of(number: int) -> tuple[NDArray[np.float64], Figure]:
        values = _on(feedback, session.folder, number)
        return _main_sums(task, values, feedback, class_names)

    try:
        before, figure = sums_of(best.number)
        differences = [
            change("main", before, sums_of(r.number)[0], figure).difference for r in past[-n:]
        ]
    except DataError:
        return None
    if any(difference.low > 0 for difference in differences):
        return None
    largest = max(differences, key=lambda difference: difference.value)
    return Ending(
        "no_gain",
        f"none of the last {n} rounds is better than round {best.label} beyond noise; the largest "
        f"difference on the feedback photographs is {estimate_text(largest, sign=True)}",
    )


def _on(feedback: Samples, folder: Path, number: int) -> NDArray[Any]:
    """Return the predictions of a round; raises DataError for those of other photographs."""
    predictions = read_predictions(folder, number)
    if list(predictions.ids) != list(feedback.ids):
        raise DataError(f"The predictions of round {number} are of photographs that have changed.")
    return predictions.values


def _main_sums(
    task: Task, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
) -> tuple[NDArray[np.float64], Figure]:
    """Return what photographs add to the main figure, and the figure.

    Of a task that does not say, that is the mean of their scores.
    """
    if of_task := getattr(task, "main_sums", None):
        sums: tuple[NDArray[np.float64], Figure] = of_task(predictions, samples, class_names)
        return sums
    return score_sums(task.scores(predictions, samples))


def _compared(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> Delivery | None:
    rule = settings.session.deliver
    delivered = chosen_round(folder, settings, target, past)
    compared = delivered
    if compared is not None and not compared.number:
        compared = delivered_round([r for r in past if r.number], rule)
    if delivered is None or compared is None or past[0].number or past[0].report is None:
        return None
    test, task = target.split("test"), tasks.build(settings.dstm.task)
    class_names = label_names(target, task)
    try:
        one, other = (read_predictions(folder, r.number, "test") for r in (past[0], compared))
    except DataError:
        return None
    if not list(one.ids) == list(other.ids) == list(test.ids):
        return None
    scores = task.scores(one.values, test), task.scores(other.values, test)
    metric, average = words(past[0].report.main_metric), "Mean score of a photograph"
    if not task.needs:
        average = "Accuracy"
    before, after = (_main_sums(task, p.values, test, class_names) for p in (one, other))
    if not hasattr(task, "main_sums"):
        average = metric
    feedback = settings.feedback
    training = past[0].training
    return Delivery(
        n_photographs=training.n_real if training else None,
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
