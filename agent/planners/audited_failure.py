"""Audited failure: towards the worst slices, as far as the audit finds that they can be drawn.

A slice's share is exp(sharpness z) times its kept-rate, where z is how many standard deviations its
error lies above that of the other slices, so the shares mean the same for errors of 0.05 and of
0.7. Of real photographs the audit keeps the same share in every class, so kept-rates of slices can
be compared. Where inspection has judged a failure, the upper bound of its chance to be fixable, of
which the kept-rate is a part, takes the kept-rate's place, so that only evidence takes images away.
A floor of evenly
spread prompts (`count`) stays, since sparse greedy allocations did badly. A slice that the audit
mostly rejects is not deleted: every third round it gets a prompt again, so that a generator or an
audit that has changed is noticed.
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
    """Return shares that add up to 1, from errors and kept-rates by slice."""
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
    """Build the planner; sharpness: of the allocation, 0 ignores errors."""

    def shares(observation: Observation, slices: Sequence[SliceScore]) -> dict[str, float]:
        kept = kept_rates(observation.rounds, slices)
        chances = {f.slice: f.fixable.chance.high for f in observation.failures if f.fixable}
        hopes = {key: chances.get(key, rate) for key, rate in kept.items()}
        shares = audited_shares(errors(slices), hopes, sharpness)
        if observation.round % _RETEST_EVERY == 0:
            prompt = observation.images_per_prompt / observation.n_images
            shares |= {key: max(shares[key], prompt) for key in kept if kept[key] < _MOSTLY}
        return shares

    return SlicePlanner("audited_failure", shares, Count(), floor)
