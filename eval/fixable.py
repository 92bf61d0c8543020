"""Hard, or not drawable? What speaks for images of a failure's prompts mending it.

Two questions, each a beta distribution from a flat prior: are the images drawn as asked
(drawable: what the audit kept), and do they help (useful: prompts whose last-layer gradients agree
with the failing photographs, and rounds after which these photographs were better). The chance
that an image does both is their product, matched to a beta distribution by mean and variance.

Of the prompts, the benefit is held against the harm: a prompt counts by how strongly it pulls. In
a slice of two classes the model may know one of them, whose prompts then pull the wrong way, but
hardly at all. Prompts of unequal strength are fewer witnesses (effective sample size, Kish 1965).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scipy.stats import beta, norm

from eval.metrics import binomial_variance
from memory.records import Estimate, Fixable, Round

# What one prompt and one round count for, in observations: the prompts of a round share one model
# and one generator, so they are no independent witnesses.
PROMPT_WEIGHT, MAX_PROMPTS = 0.5, 16
ROUND_WEIGHT = 3.0


@dataclass(frozen=True)
class Evidence:
    """What is known of the prompts that ask for a failure's photographs.

    n_made, n_kept: their images; agreements: per prompt, see `eval.credit.prompt_influence`;
    changes: of the photographs' score after each round that used such images, with its standard
    error.
    """

    n_made: int = 0
    n_kept: int = 0
    agreements: Sequence[float] = ()
    changes: Sequence[tuple[float, float]] = ()


def fixable(evidence: Evidence) -> Fixable | None:
    """Return the chance that a kept image of the failure's prompts is drawn and helps.

    None while no such image was made: nothing is known. Intervals are the middle 95%; n counts
    images made, and prompts and rounds.
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


def evidence_from(
    attributes: Mapping[str, str],
    slice_name: str,
    rounds: Sequence[Round],
    agreements: Sequence[Mapping[str, float]] = (),
    changes: Sequence[tuple[float, float]] = (),
) -> Evidence:
    """Collect what rounds say of the prompts that name all of a failure's attributes.

    agreements: per round, by prompt id. The changes of a slice that the reports measure are added
    to `changes`. A failure without attributes cannot be asked for, so there is no evidence.
    """
    if not attributes:
        return Evidence()
    aimed: dict[int, set[str]] = {
        r.number: {p.id for p in r.plan.prompts if attributes.items() <= p.attributes.items()}
        for r in rounds
        if r.plan
    }
    every = set().union(*aimed.values())
    quality = [q for r in rounds if r.batch for q in r.batch.quality if q.prompt_id in every]
    measured = [r for r in rounds if r.report]
    found = list(changes)
    for before, after in pairwise(measured):
        if not aimed.get(after.number):
            continue
        scores = [
            next((s for s in r.report.slices if s.key == slice_name), None)
            for r in (before, after)
            if r.report
        ]
        old, new = scores
        if old and new:
            variance = sum(binomial_variance(s.n_correct, s.accuracy.n) for s in (old, new))
            found.append((new.accuracy.value - old.accuracy.value, math.sqrt(variance)))
    return Evidence(
        n_made=sum(q.n_made for q in quality),
        n_kept=sum(q.n_kept for q in quality),
        agreements=[value for said in agreements for name, value in said.items() if name in every],
        changes=found,
    )


def _product(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Return the beta distribution with mean and variance of a product of two independent ones."""
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
