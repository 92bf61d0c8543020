"""What a round's images did to each slice, apart from what would have happened without them.

The accuracy of a slice changes between two reports for other reasons than its images: every
retraining moves it, more data moves all slices, and a slice that was chosen since it did badly does
better the next time (regression to the mean). `slice_effects` takes these off:

- Regression to the mean: the score before is shrunk towards the mean of all slices by
  parametric empirical Bayes (Morris 1983), from four slices on.
- Difference in differences: the mean change of the controls, slices with at most half as many
  images asked for per photograph, is subtracted. Before any control is known the common change is
  believed to be 0 with a standard deviation of 0.05.
- Retraining: its variance is the excess of the controls' changes over their binomial error
  (DerSimonian and Laird 1986), drawn towards 0.03 squared with the weight of four controls.

`docs/method.md` has the formulas, and what is simulated of them.
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

# Standard deviations that are believed in before anything is measured.
PRIOR_VARIANCE = 0.05**2
RETRAINING_VARIANCE = 0.03**2
# What the prior of the retraining counts for, in controls.
PRIOR_CONTROLS = 4
LEAST_REGRESSED = 4


@dataclass(frozen=True)
class Effect:
    """The change of a slice's accuracy that is put down to images, and its error.

    Attributes:
        value: -1..1 or a little more.
        variance: squared standard error.
        common: part of the variance that the slices of a round share.
        freedom: degrees of freedom that the variance is known with.
        plain: whether nothing was taken off, as by `plain_changes`.
    """

    value: float
    variance: float
    common: float = 0.0
    freedom: float = math.inf
    plain: bool = False

    @property
    def shrunk(self) -> float:
        """The posterior mean, effects being believed to vary with a deviation of 0.05."""
        return self.value * PRIOR_VARIANCE / (PRIOR_VARIANCE + self.variance)

    @property
    def error(self) -> float:
        """The posterior standard deviation that belongs to `shrunk`."""
        return math.sqrt(PRIOR_VARIANCE * self.variance / (PRIOR_VARIANCE + self.variance))

    def estimate(self, n: int) -> Estimate:
        """Return the value with its 95% interval."""
        half = float(student.ppf(0.975, self.freedom)) * math.sqrt(self.variance)
        return Estimate(value=self.value, low=self.value - half, high=self.value + half, n=n)


def agrees(prompt: PromptSpec, score: SliceScore) -> bool:
    """Return whether a prompt names every attribute value of a slice."""
    return score.attributes.items() <= prompt.attributes.items()


def images_of(plan: Plan, score: SliceScore) -> int:
    """Return how many images of a slice a plan asks for."""
    return sum(prompt.count for prompt in plan.prompts if agrees(prompt, score))


def effects_of(plan: Plan, before: Report | None, after: Report, version: int) -> dict[str, Effect]:
    """Return the effects of a round by the rules of a record version; none without a report before.

    Sessions of version 1 are credited and settled by plain changes, later ones by `slice_effects`.
    """
    if before is None:
        return {}
    return slice_effects(plan, before, after) if version > 1 else plain_changes(before, after)


def plain_changes(before: Report, after: Report) -> dict[str, Effect]:
    """Return the changes as they are, with their binomial error alone."""
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
        plan: of the round, whose images the model of `after` has learnt from in addition.
        before: the report that the plan was made by.
        after: the report on the same photographs after the round.
    """
    earlier = {score.key: score for score in before.slices}
    pairs = [(earlier[new.key], new) for new in after.slices if new.key in earlier]
    if not pairs:
        return {}
    olds, news = zip(*pairs, strict=True)
    # Images asked for per photograph.
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
    """Return how much changes, (k,), vary without an effect; sampling: their binomial variances.

    Returns:
        The scale of the binomial variance, at most 1 as the photographs are the same ones in both
        reports; and the variance of the change of a slice however large, by retraining.
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
    """Return what scores are expected to be when they are measured again, and the variance of it.

    Morris 1983, with the variance between slices by moments. Fewer than four scores stay.
    """
    n = len(scores)
    if n < LEAST_REGRESSED:
        return scores, variances
    away = scores - scores.mean()
    between = max(0.0, float((away**2).sum()) / (n - 1) - float(variances.mean()))
    part = variances / (variances + between)
    error = variances * (1 - (n - 1) / n * part) + 2 / max(1, n - 3) * part**2 * away**2
    return scores - part * away, error


def _sampling(score: SliceScore) -> float:
    return binomial_variance(score.n_correct, score.accuracy.n)


def _related(one: SliceScore, other: SliceScore) -> bool:
    """Return whether one slice is the other, or a part of it."""
    a, b = one.attributes.items(), other.attributes.items()
    return a <= b or b <= a
