"""Audited failure: images for the worst slices, weighted by the share that the audit keeps.

A slice's share is proportional to exp(sharpness z) times its kept-rate, where z is its error
standardised over the slices, so that errors around 0.05 and around 0.7 are treated alike. The audit
keeps the same share of real photographs in every class, so kept-rates of slices are comparable. For
a failure with an estimated chance to be fixable, which includes the kept-rate, the upper bound of
this chance replaces the kept-rate, so that only evidence reduces a share. A floor of evenly spread
prompts (`count`) is kept, since sparse greedy allocations performed poorly. A slice that the audit
mostly rejects gets at least one prompt every third round, to notice a changed generator or audit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from agent.planners import Observation
from agent.planners.count import Count
from agent.planners.slices import SlicePlanner, errors, kept_rates
from memory.records import SliceScore

_RETEST_EVERY = 3
_MOSTLY = 0.5


def audited_shares(
    error: Mapping[str, float], kept: Mapping[str, float], sharpness: float
) -> dict[str, float]:
    """Return the shares of slices, which add up to 1, from their errors and kept-rates, 0..1."""
    values = np.array(list(error.values()))
    spread = float(values.std())
    weights = {
        key: (math.exp(sharpness * (value - float(values.mean())) / spread) if spread else 1.0)
        * kept[key]
        for key, value in error.items()
    }
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def build(floor: float = 0.4, sharpness: float = 1.5) -> SlicePlanner:
    """Build the planner.

    Args:
        floor: Share of the images, 0..1, that `count` spreads evenly.
        sharpness: Weight of the standardised error; 0 ignores errors.
    """

    def shares(observation: Observation, slices: Sequence[SliceScore]) -> dict[str, float]:
        kept = kept_rates(observation.rounds, slices)
        chances = {f.slice: f.fixable.chance.high for f in observation.failures if f.fixable}
        upper = {key: chances.get(key, rate) for key, rate in kept.items()}
        shares = audited_shares(errors(slices), upper, sharpness)
        if observation.round % _RETEST_EVERY == 0:
            prompt = observation.images_per_prompt / observation.n_images
            shares |= {key: max(shares[key], prompt) for key in kept if kept[key] < _MOSTLY}
        return shares

    return SlicePlanner("audited_failure", shares, Count(), floor)
