"""The probability that a failure can be fixed by more images of the generator.

Two shares have a beta posterior from a flat prior: the share of images that show what the prompt
says (drawable, from the audit), and the share of images that help (useful, from prompts whose
last-layer gradients agree with the failing photographs, and from rounds after which these
photographs scored better). The probability that an image does both is the product of the shares,
matched to a beta distribution by mean and variance.

A prompt is weighted by the size of its gradient: in a slice of two classes the model may already
classify one of them well, whose prompts then have the wrong sign but a small gradient. Prompts of
unequal weight have a smaller effective sample size (Kish 1965).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from eval.effects import slice_effects
from memory.records import Estimate, Fixable, Round

Floats = NDArray[np.float64]

# Pseudo-observations of one prompt and one round: the prompts of a round share one model and one
# generator, so they are not independent.
PROMPT_WEIGHT, MAX_PROMPTS = 0.5, 16
ROUND_WEIGHT = 3.0


@dataclass(frozen=True)
class PromptEvidence:
    """Measurements of the prompts that name a failure's attributes.

    Attributes:
        n_made: number of images generated from these prompts.
        n_kept: number of them that the audit kept.
        agreements: influence of each prompt, see `eval.credit.prompt_influence`.
        changes: change of the photographs' mean score after each round that used such images, with
            its standard error.
    """

    n_made: int = 0
    n_kept: int = 0
    agreements: Sequence[float] = ()
    changes: Sequence[tuple[float, float]] = ()


def fixable(evidence: PromptEvidence) -> Fixable | None:
    """Return the probability that an image of the failure's prompts is drawn as asked and helps.

    None while no such image exists. Intervals are the central 95% of the posteriors; n counts
    images for `chance` and `drawable`, prompts and rounds for `useful`.
    """
    if not evidence.n_made:
        return None
    drawn = 1.0 + evidence.n_kept, 1.0 + evidence.n_made - evidence.n_kept
    helped, harmed = 1.0, 1.0
    if strongest := max(map(abs, evidence.agreements), default=0.0):
        parts = [value / strongest for value in evidence.agreements]
        strength = sum(map(abs, parts))
        n_effective = strength**2 / sum(part**2 for part in parts)
        weight = PROMPT_WEIGHT * min(MAX_PROMPTS, n_effective)
        benefit = sum(part for part in parts if part > 0) / strength
        helped += weight * benefit
        harmed += weight * (1 - benefit)
    for change, error in evidence.changes:
        better = float(norm.cdf(change / error)) if error else 0.5 + 0.5 * math.copysign(1, change)
        helped += ROUND_WEIGHT * better
        harmed += ROUND_WEIGHT * (1 - better)
    useful = helped, harmed
    n_seen = len(evidence.agreements) + len(evidence.changes)
    return Fixable(
        chance=_estimate(*_product(drawn, useful), evidence.n_made),
        drawable=_estimate(*drawn, evidence.n_made),
        useful=_estimate(*useful, n_seen),
    )


def mean_change(before: Floats, after: Floats) -> tuple[float, float]:
    """Return the mean change of the scores of photographs, and its standard error.

    One pseudo-observation of no change with a variance of 1 is added, because a few photographs
    with equal changes are weak evidence. The photographs must not have been selected by `before` or
    `after`: photographs selected for their errors improve without an effect (regression to the
    mean).

    Args:
        before: Scores of the photographs, 0..1, (n,); NaN where unknown.
        after: Scores of the same photographs after a training, (n,).
    """
    change = (after - before)[np.isfinite(after - before)]
    n = len(change) + 1
    return float(change.sum() / n), math.sqrt((float((change**2).sum()) + 1) / n / n)


def evidence_from(
    attributes: Mapping[str, str],
    slice_name: str,
    rounds: Sequence[Round],
    agreements: Sequence[Mapping[str, float]] = (),
    changes: Sequence[tuple[float, float]] = (),
) -> PromptEvidence:
    """Collect the measurements of the prompts that name all of a failure's attributes.

    Args:
        attributes: attribute values of the failure; {}: no prompt names it, so no evidence.
        slice_name: key of the slice; the effects on it (`eval.effects`) are added to `changes`.
        rounds: the rounds up to the one of the failure.
        agreements: influences by prompt id, one mapping per round.
        changes: other measured changes with their standard errors.
    """
    if not attributes:
        return PromptEvidence()
    aimed: dict[int, set[str]] = {
        r.number: {p.id for p in r.plan.prompts if attributes.items() <= p.attributes.items()}
        for r in rounds
        if r.plan
    }
    every = set().union(*aimed.values())
    quality = [q for r in rounds if r.batch for q in r.batch.quality if q.prompt_id in every]
    measured = [r for r in rounds if r.report]
    measured_changes = list(changes)
    for before, after in pairwise(measured):
        if not aimed.get(after.number):
            continue
        assert before.report and after.report and after.plan
        effects = slice_effects(after.plan, before.report, after.report)
        if effect := effects.get(slice_name):
            measured_changes.append((effect.value, math.sqrt(effect.variance)))
    return PromptEvidence(
        n_made=sum(q.n_made for q in quality),
        n_kept=sum(q.n_kept for q in quality),
        agreements=[value for one in agreements for name, value in one.items() if name in every],
        changes=measured_changes,
    )


def _product(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Return the beta distribution that matches the product of two independent ones by moments."""
    (m1, v1), (m2, v2) = (_moments(*parts) for parts in (one, other))
    mean, variance = m1 * m2, m1**2 * v2 + m2**2 * v1 + v1 * v2
    size = mean * (1 - mean) / variance - 1
    return mean * size, (1 - mean) * size


def _moments(a: float, b: float) -> tuple[float, float]:
    return a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))


def _estimate(a: float, b: float, n: int) -> Estimate:
    low, high = (float(x) for x in beta.ppf((0.025, 0.975), a, b))
    mean = a / (a + b)
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean), n=n)
