"""The delivered round of a session, and the effect of its images on the sealed test.

The result, delivery.json, lies beside the report and is rewritten with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
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
    delivered_round,
    figure_changes,
    rule_sums,
    score_sums,
    slice_sums,
    slices_that_matter,
)
from eval.report.text import estimate_text, words
from eval.slices import SliceTable, slice_table
from memory.errors import DataError
from memory.files import write_json
from memory.records import Round
from tools import tasks
from tools.data.samples import Samples
from tools.evaluate_real import read_predictions
from tools.targets import Target, label_names
from tools.tasks import Task


@dataclass(frozen=True)
class _Split:
    """The photographs of a split, with the stored predictions of the models of a session.

    Attributes:
        folder: Folder of the session.
        settings: Settings of the session.
        target: Target with the photographs.
        name: Name of the split.
    """

    folder: Path
    settings: Settings
    target: Target
    name: str

    @cached_property
    def samples(self) -> Samples:
        """The photographs of the split."""
        return self.target.split(self.name)

    @cached_property
    def task(self) -> Task:
        """Task of the models."""
        return tasks.build(self.settings.dstm.task)

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """Name of each photograph's group, (n,); None: the target has no groups."""
        return np.array(self.samples.groups) if self.samples.groups else None

    @cached_property
    def slices(self) -> SliceTable:
        """Rows of the photographs of each evaluated slice."""
        feedback = self.settings.feedback
        return slice_table(self.samples.attributes, feedback.slices, max(1, feedback.n_min))

    def predictions(self, number: int) -> NDArray[Any]:
        """Return the predictions of a round; raises DataError if the photographs have changed."""
        stored = read_predictions(self.folder, number, self.name)
        if list(stored.ids) != list(self.samples.ids):
            raise DataError(
                f"The predictions of round {number} are of photographs that have changed."
            )
        return stored.values

    def scores(self, predictions: NDArray[Any]) -> NDArray[np.float64]:
        """Return each photograph's score, (n,)."""
        return self.task.scores(predictions, self.samples)

    def main(self, predictions: NDArray[Any]) -> tuple[NDArray[np.float64], Figure]:
        """Return per-photograph statistics of the main figure, and the figure of their sums.

        Tasks without `main_sums` use the mean score.
        """
        if of_task := getattr(self.task, "main_sums", None):
            names = label_names(self.target, self.task)
            sums: tuple[NDArray[np.float64], Figure]
            sums = of_task(predictions, self.samples, names)
            return sums
        return score_sums(self.scores(predictions))

    def by_rule(self, predictions: NDArray[Any]) -> tuple[NDArray[np.float64], Figure]:
        """Return the same for the figure by which `session.deliver` compares rounds."""
        if not self.slices:
            return self.main(predictions)
        worst = slice_sums(self.scores(predictions), list(self.slices.values()))
        return rule_sums(self.settings.session.deliver, self.main(predictions), worst)


def chosen_round(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> Round | None:
    """Return the round that is delivered; None: no round is evaluated.

    It is the earliest round, with the fewest images, within one standard error of the paired
    difference from the best by `session.deliver` on feedback (Breiman et al. 1984): the highest of
    several noisy figures is often no better than round 0.
    """
    rule = settings.session.deliver
    best = delivered_round(past, rule)
    if best is None:
        return None
    feedback = _Split(folder, settings, target, "feedback")
    earlier = [r for r in past if r.number < best.number and r.training and r.report]
    with suppress(DataError):
        after, figure = feedback.by_rule(feedback.predictions(best.number))
        for candidate in earlier:
            before, _ = feedback.by_rule(feedback.predictions(candidate.number))
            difference = change(rule, before, after, figure, feedback.groups).difference
            if difference.value <= (difference.high - difference.low) / 4:
                return candidate
    return best


def no_gain(session: Session, target: Target) -> Ending | None:
    """Return the ending by `limits.no_gain`; None: another round is allowed.

    The limit is reached if no interval of the paired differences between the last rounds and the
    best round before them, on the feedback photographs, is above zero.
    """
    n, settings = session.settings.limits.no_gain, session.settings
    past = [r for r in session.rounds() if r.number <= session.n_done()]
    if n is None or len(past) <= n:
        return None
    best = delivered_round(past[:-n], "main")
    if best is None or any(after.report is None for after in past[-n:]):
        return None
    feedback = _Split(session.folder, settings, target, "feedback")
    try:
        before, figure = feedback.main(feedback.predictions(best.number))
        afters = [feedback.main(feedback.predictions(r.number))[0] for r in past[-n:]]
    except DataError:
        return None
    differences = [
        change("main", before, after, figure, feedback.groups).difference for after in afters
    ]
    if any(difference.low > 0 for difference in differences):
        return None
    largest = max(differences, key=lambda difference: difference.value)
    return Ending(
        "no_gain",
        f"none of the last {n} rounds is better than round {best.label} beyond noise; the largest "
        f"difference on the feedback photographs is {estimate_text(largest, sign=True)}",
    )


def write_delivery(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> Delivery | None:
    """Compare the best round with images to round 0 on the sealed test, and write the result.

    Args:
        folder: Folder of the session.
        settings: Settings of the session.
        target: Target whose test split is read.
        past: All rounds.

    Returns:
        The result; None: round 0, a round with images, or their predictions are missing.
    """
    rule = settings.session.deliver
    delivered = compared = chosen_round(folder, settings, target, past)
    if compared is not None and not compared.number:
        compared = delivered_round([r for r in past if r.number], rule)
    if delivered is None or compared is None or past[0].number or past[0].report is None:
        return None
    first, test = past[0], _Split(folder, settings, target, "test")
    try:
        predictions = [test.predictions(r.number) for r in (first, compared)]
    except DataError:
        return None
    (before, figure), (after, _) = map(test.main, predictions)
    metric = words(past[0].report.main_metric)
    average = "Mean score of a photograph" if test.task.needs else "Accuracy"
    delivery = Delivery(
        n_photographs=first.training.n_real if first.training else None,
        rule=rule,
        baseline=first.label,
        round=delivered.number,
        compared=compared.number,
        n_images=sum(r.batch.n_made for r in past if r.batch and r.number <= compared.number),
        changes=figure_changes(
            (metric, before, after, figure),
            (test.scores(predictions[0]), test.scores(predictions[1])),
            average if hasattr(test.task, "main_sums") else metric,
            test.slices,
            slices_that_matter(past),
            test.groups,
        ),
    )
    write_json(folder / DELIVERY, delivery.to_json())
    return delivery
