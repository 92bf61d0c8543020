"""Prioritised level replay (Jiang et al., ICML 2021) over slices.

P = (1 - rho) P_score + rho P_stale. P_score falls with the rank of a slice's error, (1 / rank) to
the power of 1 / beta; P_stale grows with the rounds since a slice was last asked for. The paper
has beta = 0.1 for one level at a time; a round of many images is spread wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.planners import Observation
from agent.planners.slices import SlicePlanner, asked_for, errors
from agent.planners.uniform import Uniform
from memory.records import Round, SliceScore


def rank_shares(values: Mapping[str, float], beta: float) -> dict[str, float]:
    """Return shares that add up to 1 and fall with the rank, the highest value first."""
    order = sorted(values, key=lambda key: (-values[key], key))
    weights = {key: (1 / rank) ** (1 / beta) for rank, key in enumerate(order, start=1)}
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def staleness(rounds: Sequence[Round], slices: Sequence[SliceScore]) -> dict[str, int]:
    """Return how many rounds ago each slice was last asked for, 0 in the last round."""
    return {
        score.key: next(
            (age for age, r in enumerate(reversed(rounds)) if asked_for(r, score)), len(rounds)
        )
        for score in slices
    }


def build(beta: float = 0.5, rho: float = 0.1) -> SlicePlanner:
    """Build the planner; beta: above 0, small is greedy; rho: 0..1, weight of stale slices."""

    def shares(observation: Observation, slices: Sequence[SliceScore]) -> dict[str, float]:
        stale = staleness(observation.rounds, slices)
        total = sum(stale.values())
        return {
            key: (1 - rho) * share + (rho * stale[key] / total if total else 0.0)
            for key, share in rank_shares(errors(slices), beta).items()
        }

    return SlicePlanner("level_replay", shares, Uniform())
