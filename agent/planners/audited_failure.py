"""Audited failure: towards the worst slices, as far as the audit finds that they can be drawn.

A slice's share is exp(sharpness z) times the square of its kept-rate, where z is how many standard
deviations its error lies above that of the other slices, so the shares mean the same for errors
of 0.05 and of 0.7. Where inspection has judged a failure, the share is multiplied by the upper
bound of its chance to be fixable, so that only evidence takes images away. A floor of evenly
spread prompts (`count`) stays, since sparse greedy allocations did badly. A slice that the audit
mostly rejects is not deleted: every third round it gets a prompt again, so that a generator or an
audit that has changed is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from agent.planners import Observation, Palette, PlanDraft
from agent.planners.count import Count
from agent.planners.slices import errors, kept_rates, last_report, open_slices, spend, supplied
from prompts.vocabulary import Vocabulary

_RETEST_EVERY = 3
_MOSTLY = 0.5


class AuditedFailure:
    """The planner `audited_failure`; curriculum: see `open_slices`."""

    name = "audited_failure"

    def __init__(self, floor: float, sharpness: float, curriculum: bool) -> None:
        self._floor = floor
        self._sharpness = sharpness
        self._curriculum = curriculum

    def plan(self, observation: Observation, palette: Palette, vocabulary: Vocabulary) -> PlanDraft:
        """Return the draft of a round; evenly spread while there is no report."""
        slices = supplied(last_report(observation.rounds), palette)
        if self._curriculum:
            slices = open_slices(slices)
        if not slices:
            return Count().plan(observation, palette, vocabulary)
        kept = kept_rates(observation.rounds, slices)
        hopes = {f.slice: f.fixable.chance.high for f in observation.failures if f.fixable}
        shares = {
            key: share * hopes.get(key, 1.0)
            for key, share in audited_shares(errors(slices), kept, self._sharpness).items()
        }
        if observation.round % _RETEST_EVERY == 0:
            prompt = observation.images_per_prompt / observation.n_images
            shares |= {key: max(shares[key], prompt) for key in kept if kept[key] < _MOSTLY}
        return spend(
            self.name,
            shares,
            slices,
            observation,
            palette,
            vocabulary,
            self._floor,
            Count(),
        )


def audited_shares(
    error: Mapping[str, float], kept: Mapping[str, float], sharpness: float
) -> dict[str, float]:
    """Return shares that add up to 1, from errors and kept-rates by slice."""
    values = np.array(list(error.values()))
    spread = float(values.std())
    weights = {
        key: (math.exp(sharpness * (value - float(values.mean())) / spread) if spread else 1.0)
        * kept[key] ** 2
        for key, value in error.items()
    }
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def build(floor: float = 0.4, sharpness: float = 1.5, curriculum: bool = False) -> AuditedFailure:
    """Build the planner."""
    return AuditedFailure(floor, sharpness, curriculum)
