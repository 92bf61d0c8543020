"""Learning progress: ALP-GMM (Portelas et al., CoRL 2019) over slices.

A task is a slice, as a vector of 0 and 1 for its attribute values. Its absolute learning progress
(ALP) is |score - score in the report before|, the slice itself being the nearest earlier task.
Mixtures of 2 to 10 normal distributions are fitted to the last 250 (task, ALP) pairs, the one with
the lowest AIC is kept. For every prompt a component is drawn in proportion to its mean ALP, a
point from it, and the slice nearest to the point; 20% of the prompts go to slices at random.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from agent.planners import Observation, Palette, PlanDraft
from agent.planners._mixture import best_mixture
from agent.planners.slices import changes, last_report, spend, supplied
from agent.planners.uniform import Uniform
from memory.records import SliceScore
from prompts.vocabulary import Vocabulary

_SIZES = range(2, 11)
_N_PAIRS = 250


class LearningProgress:
    """The planner `learning_progress`; random_share: of prompts for slices drawn at random."""

    name = "learning_progress"

    def __init__(self, random_share: float) -> None:
        self._random_share = random_share

    def plan(self, observation: Observation, palette: Palette, vocabulary: Vocabulary) -> PlanDraft:
        """Return the draft of a round; uniform until two reports measure one slice."""
        slices = supplied(last_report(observation.rounds), palette)
        known = {score.key: number for number, score in enumerate(slices)}
        pairs = [
            (known[after.key], abs(after.accuracy.value - before.accuracy.value))
            for _, before, after in changes(observation.rounds)
            if after.key in known
        ][-_N_PAIRS:]
        if not pairs:
            return Uniform().plan(observation, palette, vocabulary)
        tasks = _vectors(slices)
        rng = np.random.default_rng([observation.seed, observation.round])
        points = np.array([[*tasks[number], progress] for number, progress in pairs])
        mixture = best_mixture(points, _SIZES, rng)
        worth = mixture.means[:, -1].clip(min=0) + 1e-9
        spent: Counter[int] = Counter()
        left = observation.n_images
        while left > 0:
            count = min(left, observation.images_per_prompt)
            if rng.random() < self._random_share:
                chosen = int(rng.integers(len(slices)))
            else:
                part = rng.choice(len(worth), p=worth / worth.sum())
                point = rng.normal(mixture.means[part], np.sqrt(mixture.variances[part]))[:-1]
                chosen = int(((tasks - point) ** 2).sum(1).argmin())
            spent[chosen] += count
            left -= count
        shares = {score.key: float(spent[number]) for number, score in enumerate(slices)}
        return spend(self.name, shares, slices, observation, palette, vocabulary)


def _vectors(slices: list[SliceScore]) -> NDArray[np.float64]:
    """Return a row per slice and a column per attribute value, 1 where the slice has it."""
    values = sorted({item for score in slices for item in score.attributes.items()})
    return np.array([[float(v in s.attributes.items()) for v in values] for s in slices])


def build(random_share: float = 0.2) -> LearningProgress:
    """Build the planner."""
    return LearningProgress(random_share)
