"""Prioritised level replay (Jiang et al., ICML 2021) over slices.

P = (1 - rho) P_score + rho P_stale. P_score falls with the rank of a slice's error, (1 / rank) to
the power of 1 / beta; P_stale grows with the rounds since a slice was last asked for. The paper
has beta = 0.1 for one level at a time; a round of many images is spread wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.planners import Observation, Palette, PlanDraft
from agent.planners.slices import errors, last_report, spend, supplied, used
from agent.planners.uniform import Uniform
from memory.records import Round, SliceScore
from prompts.vocabulary import Vocabulary


class LevelReplay:
    """The planner `level_replay`; beta: above 0, small is greedy; rho: 0..1, for stale slices."""

    name = "level_replay"

    def __init__(self, beta: float, rho: float) -> None:
        self._beta = beta
        self._rho = rho

    def plan(self, observation: Observation, palette: Palette, vocabulary: Vocabulary) -> PlanDraft:
        """Return the draft of a round; uniform while there is no report."""
        slices = supplied(last_report(observation.rounds), palette)
        if not slices:
            return Uniform().plan(observation, palette, vocabulary)
        by_rank = rank_shares(errors(slices), self._beta)
        stale = staleness(observation.rounds, slices)
        total = sum(stale.values())
        shares = {
            key: (1 - self._rho) * share + (self._rho * stale[key] / total if total else 0.0)
            for key, share in by_rank.items()
        }
        return spend(self.name, shares, slices, observation, palette, vocabulary)


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
            (age for age, r in enumerate(reversed(rounds)) if used(r, score)), len(rounds)
        )
        for score in slices
    }


def build(beta: float = 0.5, rho: float = 0.1) -> LevelReplay:
    """Build the planner."""
    return LevelReplay(beta, rho)
