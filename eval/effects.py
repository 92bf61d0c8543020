"""Effects of a round's images on the accuracy of slices.

The accuracy of a slice changes between two reports for other reasons than its images: every
retraining moves it, more data moves all slices, and a slice that was selected for its low score
improves on the next measurement (regression to the mean). `slice_effects` corrects for these:

- Regression to the mean: the score before is shrunk towards the mean of all slices by
  parametric empirical Bayes (Morris 1983), from four slices on.
- Difference in differences: the mean change of the controls, slices with at most half as many
  requested images per photograph, is subtracted. The prior of this common change is normal with
  mean 0 and a standard deviation of 0.05.
- Retraining: its variance is the excess of the controls' changes over their binomial error
  (DerSimonian and Laird 1986), shrunk towards 0.03 squared with the weight of four controls.

`docs/method.md` has the formulas and the simulations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from eval.metrics import binomial_variance
from memory.records import Estimate, Plan, PromptSpec, Report, SliceScore

Floats = NDArray[np.float64]

# Prior variances of effects and of the change of a slice by retraining.
PRIOR_VARIANCE = 0.05**2
RETRAINING_VARIANCE = 0.03**2
# Weight of the prior of the retraining variance, in controls.
PRIOR_CONTROLS = 4
# Fewest slices for which regression to the mean is corrected.
LEAST_REGRESSED = 4


@dataclass(frozen=True)
class Effect:
    """The change of a slice's accuracy that is attributed to images, and its error.

    Attributes:
        value: about -1..1; corrections may exceed this range slightly.
        variance: squared standard error.
        common: part of the variance that the slices of a round share.
        freedom: degrees of freedom of the variance.
        plain: whether the change is uncorrected, see `plain_changes`.
    """

    value: float
    variance: float
    common: float = 0.0
    freedom: float = math.inf
    plain: bool = False

    @property
    def shrunk(self) -> float:
        """The posterior mean under a prior standard deviation of effects of 0.05."""
        return self.value * PRIOR_VARIANCE / (PRIOR_VARIANCE + self.variance)

    @property
    def error(self) -> float:
        """The posterior standard deviation of the effect, see `shrunk`."""
        return math.sqrt(PRIOR_VARIANCE * self.variance / (PRIOR_VARIANCE + self.variance))

    def estimate(self, n: int) -> Estimate:
        """Return the value with its 95% interval."""
        half = float(student.ppf(0.975, self.freedom)) * math.sqrt(self.variance)
        return Estimate(value=self.value, low=self.value - half, high=self.value + half, n=n)


def agrees(prompt: PromptSpec, score: SliceScore) -> bool:
    """Return whether a prompt names every attribute value of a slice."""
    return score.attributes.items() <= prompt.attributes.items()


def images_of(plan: Plan, score: SliceScore) -> int:
    """Return the number of images of a slice that a plan requests."""
    return sum(prompt.count for prompt in plan.prompts if agrees(prompt, score))


def effects_of(plan: Plan, before: Report | None, after: Report, version: int) -> dict[str, Effect]:
    """Return the effects of a round by slice; {} without a report before.

    version: record version of the session; version 1 uses `plain_changes`, later ones
    `slice_effects`.
    """
    if before is None:
        return {}
    return slice_effects(plan, before, after) if version > 1 else plain_changes(before, after)


def plain_changes(before: Report, after: Report) -> dict[str, Effect]:
    """Return uncorrected changes with their binomial error, by slice."""
    earlier = {score.key: score for score in before.slices}
    return {
        new.key: Effect(
            new.accuracy.value - old.accuracy.value, _sampling(old) + _sampling(new), plain=True
        )
        for new in after.slices
        if (old := earlier.get(new.key))
    }


def slice_effects(plan: Plan, before: Report, after: Report) -> dict[str, Effect]:
    """Return the effect of a round on every slice that both reports measure, by its key.

    Args:
        plan: plan of the round, whose images are added to the training data of `after`.
        before: the report that the plan is based on.
        after: the report on the same photographs after the round.
    """
    earlier = {score.key: score for score in before.slices}
    pairs = [(earlier[new.key], new) for new in after.slices if new.key in earlier]
    if not pairs:
        return {}
    olds, news = zip(*pairs, strict=True)
    # Requested images per photograph.
    dose = np.array([images_of(plan, score) / max(1, score.accuracy.n) for score in news])
    old, new = (np.array([s.accuracy.value for s in scores]) for scores in (olds, news))
    v_old, v_new = (np.array([_sampling(s) for s in scores]) for scores in (olds, news))
    related = np.array([[_related(a, b) for b in news] for a in news])
    effects = {}
    for i, score in enumerate(news):
        controls = ~related[i] & (dose <= dose[i] / 2) if dose[i] else ~related[i] & (dose == 0)
        scale, retraining = _noise((new - old)[controls], (v_old + v_new)[controls])
        expected, error = _regressed(old, scale * v_old + retraining / 2)
        moved = new - expected
        weight = 1 / (error + scale * v_new + retraining / 2)
        common = float((weight * moved)[controls].sum())
        precision = float(weight[controls].sum()) + 1 / PRIOR_VARIANCE
        effects[score.key] = Effect(
            value=float(moved[i]) - common / precision,
            variance=float(1 / weight[i]) + 1 / precision,
            common=1 / precision,
            freedom=PRIOR_CONTROLS + max(0, int(controls.sum()) - 1),
        )
    return effects


def _noise(changes: Floats, sampling: Floats) -> tuple[float, float]:
    """Estimate the variance of changes without an effect.

    Args:
        changes: changes of the controls, (k,).
        sampling: binomial variance of each change, (k,).

    Returns:
        The scale of the binomial variance, at most 1 because both reports are on the same
        photographs; and the variance by retraining, which does not depend on the slice's size.
    """
    freedom = len(changes) - 1
    if freedom < 1:
        return 1.0, RETRAINING_VARIANCE
    weight = 1 / sampling
    q = float((weight * (changes - np.average(changes, weights=weight)) ** 2).sum())
    excess = (q - freedom) / float(weight.sum() - (weight**2).sum() / weight.sum())
    prior = PRIOR_CONTROLS * RETRAINING_VARIANCE
    scale = min(1.0, (PRIOR_CONTROLS + q) / (PRIOR_CONTROLS + freedom))
    return scale, (prior + freedom * max(0.0, excess)) / (PRIOR_CONTROLS + freedom)


def _regressed(scores: Floats, variances: Floats) -> tuple[Floats, Floats]:
    """Return the scores expected on a second measurement, and their variance.

    Morris 1983, with the variance between slices estimated by moments. Fewer than four scores are
    returned unchanged.
    """
    n = len(scores)
    if n < LEAST_REGRESSED:
        return scores, variances
    deviations = scores - scores.mean()
    between = max(0.0, float((deviations**2).sum()) / (n - 1) - float(variances.mean()))
    part = variances / (variances + between)
    error = variances * (1 - (n - 1) / n * part) + 2 / max(1, n - 3) * part**2 * deviations**2
    return scores - part * deviations, error


def _sampling(score: SliceScore) -> float:
    return binomial_variance(score.n_correct, score.accuracy.n)


def _related(one: SliceScore, other: SliceScore) -> bool:
    """Return whether the slices are equal or one contains the other."""
    a, b = one.attributes.items(), other.attributes.items()
    return a <= b or b <= a
