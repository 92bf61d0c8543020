"""Learning curve: towards slices with many errors and few training photographs and images.

A slice with error e that has learnt from n examples gains e log((n + k m) / n) by m more images, of
which the audit keeps the share k, up to a factor that all slices share: its error falls with a
power of n (Hestness et al. 2017), and the gain is small. The sum of the gains is largest where
n / k + m = c e for every slice that gets images (water filling; Boyd and Vandenberghe 2004, section
5.5.3). So an ambiguous slice with many photographs gets none, however much it errs, and a rare one
as many as its error is worth. n counts the photographs that the DSTM learns from, the images kept
so far, and `transfer`, which stands for what a slice learns from the others. Where inspection has
judged a failure, its error counts as far as kept images may be useful for it (upper bound).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.planners import AttributeDistribution, Observation, PlanDraft
from agent.planners.count import Count
from agent.planners.slices import (
    SlicePlanner,
    errors,
    kept_rates,
    last_report,
    supported_slices,
)
from eval.effects import images_of
from prompts.vocabulary import Vocabulary

Floats = NDArray[np.float64]


def water_fill(worth: Floats, filled: Floats, total: float) -> Floats:
    """Return the amounts m >= 0 that add up to `total` and maximise sum(worth log(filled + m)).

    Args:
        worth: Of each place, above 0, (k,).
        filled: What is there already, above 0, (k,).
        total: What is to be spent, at least 0.
    """
    order = np.argsort(filled / worth)
    levels = (total + np.cumsum(filled[order])) / np.cumsum(worth[order])
    # The level of the first n places, for the most n of which each gets something.
    n = int(np.flatnonzero(levels >= (filled / worth)[order])[-1])
    amounts: Floats = np.maximum(0.0, levels[n] * worth - filled)
    return amounts


class LearningCurve:
    """The planner `learning_curve`.

    Attributes:
        floor: Share of the images that is spread evenly over slices.
        transfer: Photographs that count for every slice besides its own.
    """

    name = "learning_curve"

    def __init__(self, floor: float, transfer: float) -> None:
        self._floor, self._transfer = floor, transfer

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round."""
        slices = supported_slices(last_report(observation.rounds), distribution)
        if not slices:
            return Count().plan(observation, distribution, vocabulary)
        kept = np.array([*kept_rates(observation.rounds, slices).values()])
        plans = [past.plan for past in observation.rounds if past.plan]
        made = np.array([sum(images_of(plan, score) for plan in plans) for score in slices])
        trained = [past.training for past in observation.rounds if past.training]
        # The DSTM may learn from fewer than the generator split has.
        used = (trained[-1].n_real or 0) if trained else 0
        share = used / distribution.n_of({})
        photographs = np.array([distribution.n_of(s.attributes) for s in slices]) * share
        useful = {f.slice: f.fixable.useful.high for f in observation.failures if f.fixable}
        hopes = [useful.get(score.key, 1.0) for score in slices]
        error = np.array([*errors(slices).values()])
        worth = np.maximum(1e-3, error * hopes)
        filled = (photographs + kept * made + self._transfer) / kept
        images = water_fill(worth, filled, (1 - self._floor) * observation.n_images)
        shares = dict(zip((score.key for score in slices), images.tolist(), strict=True))
        planner = SlicePlanner(self.name, lambda *_: shares, Count(), self._floor)
        draft = planner.allocate(shares, slices, observation, distribution, vocabulary)
        assert draft.hypothesis is not None  # `allocate` names its favourite
        row = next(n for n, s in enumerate(slices) if s.key == draft.hypothesis.slice)
        why = (
            f"{draft.why} It errs on {error[row]:.0%} and has {photographs[row]:.0f} photographs "
            f"and {made[row]:.0f} images."
        )
        return draft.model_copy(update={"why": why})


def build(floor: float = 0.4, transfer: float = 10.0) -> LearningCurve:
    """Build the planner; floor: 0..1; transfer: photographs, above 0."""
    return LearningCurve(floor, transfer)
