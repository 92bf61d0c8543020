"""Learning curve: images for slices with many errors and few training photographs and images.

The error e of a slice with n training examples falls with a power of n (Hestness et al. 2017). For
small gains, m more images, of which the audit keeps the share k, gain e log((n + k m) / n) up to a
factor common to all slices. The total gain is largest if n / k + m = c e for every slice that gets
images (water filling; Boyd and Vandenberghe 2004, section 5.5.3). An ambiguous slice with many
photographs thus gets none despite its error, and a rare slice gets images in proportion to its
error. n is the number of photographs that the DSTM is trained on, plus the images kept so far, plus
`transfer` for what a slice learns from the others. The error of a failure with an estimated chance
to be fixable is multiplied by the upper bound of the share of kept images that are useful.
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
        worth: Weights, above 0, (k,).
        filled: Amounts already present, above 0, (k,).
        total: Amount to distribute, at least 0.

    Returns:
        The amounts m, (k,).
    """
    order = np.argsort(filled / worth)
    levels = (total + np.cumsum(filled[order])) / np.cumsum(worth[order])
    # The largest set of entries, in order of filled / worth, of which each gets an amount above 0.
    n = int(np.flatnonzero(levels >= (filled / worth)[order])[-1])
    amounts: Floats = np.maximum(0.0, levels[n] * worth - filled)
    return amounts


class LearningCurve:
    """The planner `learning_curve`.

    Attributes:
        floor: Share of the images, 0..1, that is spread evenly over slices.
        transfer: Number of photographs, above 0, that is added to those of every slice.
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
        # The DSTM may be trained on fewer photographs than the generator split has.
        used = (trained[-1].n_real or 0) if trained else 0
        share = used / distribution.n_of({})
        photographs = np.array([distribution.n_of(s.attributes) for s in slices]) * share
        useful = {f.slice: f.fixable.useful.high for f in observation.failures if f.fixable}
        usefulness = [useful.get(score.key, 1.0) for score in slices]
        error = np.array([*errors(slices).values()])
        worth = np.maximum(1e-3, error * usefulness)
        filled = (photographs + kept * made + self._transfer) / kept
        images = water_fill(worth, filled, (1 - self._floor) * observation.n_images)
        shares = dict(zip((score.key for score in slices), images.tolist(), strict=True))
        planner = SlicePlanner(self.name, lambda *_: shares, Count(), self._floor)
        draft = planner.allocate(shares, slices, observation, distribution, vocabulary)
        assert draft.hypothesis is not None  # set by `allocate`
        row = next(n for n, s in enumerate(slices) if s.key == draft.hypothesis.slice)
        why = (
            f"{draft.why} It errs on {error[row]:.0%} and has {photographs[row]:.0f} photographs "
            f"and {made[row]:.0f} images."
        )
        return draft.model_copy(update={"why": why})


def build(floor: float = 0.4, transfer: float = 10.0) -> LearningCurve:
    """Build the planner; arguments: see `LearningCurve`."""
    return LearningCurve(floor, transfer)
