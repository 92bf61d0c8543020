"""Expected gain: images for slices that more images are known to help; otherwise evenly.

Error is not gain: an ambiguous class has a high error and gains nothing, while a class with few
photographs gains. The gain of a slice that has had M images from m more images saturates, and is
modelled as theta log((M0 + M + m) / (M0 + M)), where M0 is the average number of images per slice
and round. The effects of all rounds (`eval.effects`) are normally distributed about it, with an
error of the common change shared by the slices of a round. The thetas have a normal prior with mean
0 and a covariance that grows with the share of common attributes of two slices (Jaccard index), so
that evidence is shared between similar slices: a Gaussian process, whose posterior is in closed
form (Rasmussen and Williams 2006, eqs. 2.23 and 2.24).

If all slices gain alike, an even spread is best. A slice therefore gets images in proportion to the
one-sided 95% lower bound of how much more it gains than the mean of all slices, at most its error.
A share of the images, the floor, is always spread evenly; all images are if no bound is above 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.planners import AttributeDistribution, Observation, PlanDraft
from agent.planners.slices import SlicePlanner, errors, last_report, slice_changes, supported_slices
from agent.planners.uniform import Uniform
from eval.effects import PRIOR_VARIANCE, images_of
from memory.records import Hypothesis, Round, SliceScore
from prompts.vocabulary import Vocabulary

Floats = NDArray[np.float64]

# Prior variances of theta, shared by similar slices and by all slices: the effect of the first
# average round on a slice then has the prior variance of `eval.effects`, up to the common part.
_SIMILAR = PRIOR_VARIANCE / math.log(2) ** 2
_COMMON = _SIMILAR / 4
# Standard deviations of a one-sided 95% bound.
_DEVIATIONS = 1.64


@dataclass(frozen=True)
class Gain:
    """The gain in accuracy of a slice from the images of an average round.

    Attributes:
        mean: Posterior mean.
        deviation: Posterior standard deviation.
        more: Lower bound of the difference from the mean gain of all slices.
    """

    mean: float
    deviation: float
    more: float


def gains(rounds: Sequence[Round], slices: Sequence[SliceScore]) -> dict[str, Gain]:
    """Return the posterior gain of every slice by its key."""
    by_key = {score.key: score for score in slices}
    seen = [change for change in slice_changes(rounds) if change.after.key in by_key]
    made = {key: _made(rounds, score) for key, score in by_key.items()}
    n_rounds = max(1, sum(r.plan is not None for r in rounds))
    average = max(1.0, sum(n[None] for n in made.values()) / len(made) / n_rounds)

    def exposure_of(n_before: int, n_more: float) -> float:
        return math.log1p(n_more / (average + n_before))

    next_exposure = {key: exposure_of(made[key][None], average) for key in by_key}
    means, covariance = np.zeros(len(slices)), _covariance(slices, slices)
    if seen:
        exposure = np.array(
            [exposure_of(made[c.after.key][c.round.number], c.n_images) for c in seen]
        )
        same_round = np.array([[a.round.number == b.round.number for b in seen] for a in seen])
        common = np.sqrt([c.effect.common for c in seen])
        noise = same_round * np.outer(common, common)
        np.fill_diagonal(noise, [c.effect.variance for c in seen])
        of_seen = [c.after for c in seen]
        observed = np.outer(exposure, exposure) * _covariance(of_seen, of_seen) + noise
        cross = _covariance(slices, of_seen) * exposure
        weights = np.linalg.solve(observed, cross.T).T
        means = weights @ np.array([c.effect.value for c in seen])
        covariance = covariance - weights @ cross.T
    scale = np.array([next_exposure[key] for key in by_key])
    means, covariance = scale * means, np.outer(scale, scale) * covariance
    contrast = np.eye(len(slices)) - 1 / len(slices)
    more = contrast @ means - _DEVIATIONS * _deviations(contrast @ covariance @ contrast.T)
    return {
        key: Gain(float(mean), float(deviation), float(bound))
        for key, mean, deviation, bound in zip(
            by_key, means, _deviations(covariance), more, strict=True
        )
    }


def _deviations(covariance: Floats) -> Floats:
    deviations: Floats = np.sqrt(np.diag(covariance).clip(min=0))
    return deviations


def _made(rounds: Sequence[Round], score: SliceScore) -> dict[int | None, int]:
    """Return the images requested of a slice before each round, and in total under the key None."""
    before: dict[int | None, int] = {}
    total = 0
    for past in rounds:
        before[past.number] = total
        total += images_of(past.plan, score) if past.plan else 0
    return {**before, None: total}


def _covariance(one: Sequence[SliceScore], other: Sequence[SliceScore]) -> Floats:
    """Return the prior covariance of the thetas of two lists of slices, (len(one), len(other))."""
    items = [[set(s.attributes.items()) for s in slices] for slices in (one, other)]
    shared = [[len(a & b) / max(1, len(a | b)) for b in items[1]] for a in items[0]]
    return _COMMON + _SIMILAR * np.array(shared).reshape(len(one), len(other))


class ExpectedGain:
    """The planner `expected_gain`; floor: share of the images, 0..1, that is spread evenly."""

    name = "expected_gain"

    def __init__(self, floor: float) -> None:
        self._floor = floor

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round."""
        slices = supported_slices(last_report(observation.rounds), distribution)
        expected = gains(observation.rounds, slices) if slices else {}
        left = errors(slices)
        worth = {key: max(0.0, min(gain.more, left[key])) for key, gain in expected.items()}
        if not any(worth.values()):
            draft = Uniform().plan(observation, distribution, vocabulary)
            why = "No slice is known to gain more than others by images: they are spread evenly."
            return draft.model_copy(update={"why": why})
        planner = SlicePlanner(self.name, lambda *_: worth, Uniform(), self._floor)
        draft = planner.allocate(worth, slices, observation, distribution, vocabulary)
        assert draft.hypothesis is not None  # set by `allocate`
        key = draft.hypothesis.slice
        gain = expected[key]
        change = round(min(left[key], max(0.01, gain.mean)), 4)
        why = (
            f"{draft.why} As many as a round's average for '{key}' gain {gain.mean:+.3f} "
            f"+-{gain.deviation:.3f} by what the rounds so far showed."
        )
        return draft.model_copy(
            update={"why": why, "hypothesis": Hypothesis(slice=key, expected_change=change)}
        )


def build(floor: float = 0.5) -> ExpectedGain:
    """Build the planner; floor: see `ExpectedGain`."""
    return ExpectedGain(floor)
