"""Online mixing of slices: Exp3 on their progress, or GroupDRO on their errors.

Exp3 as in online data mixing (Albalak et al. 2023): pi = (1 - K e) softmax(e' R) + e with
e = min(1 / K, sqrt(ln K / (K t))), e' that of the step before; a slice that got the share s of a
round's images adds s reward / pi to its R. GroupDRO (Sagawa et al., ICLR 2020): q_g is
multiplied by exp(eta error_g) with every report.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from agent.planners.slices import Shares, SlicePlanner, changes, reward
from agent.planners.uniform import Uniform
from eval.effects import agrees
from memory.errors import SettingsError, unknown
from memory.records import Round, SliceScore

Method = Literal["exp3", "groupdro"]


def exp3(rounds: Sequence[Round], slices: Sequence[SliceScore]) -> dict[str, float]:
    """Return the shares of the slices after a history; they add up to 1."""
    keys = [score.key for score in slices]
    totals = dict.fromkeys(keys, 0.0)
    shares = dict.fromkeys(keys, 1 / len(keys))
    step = 1
    for past in rounds:
        gained = {
            change.after.key: (reward(change.effect), _spent(past, change.after))
            for change in changes(rounds)
            if change.round.number == past.number and change.after.key in totals
        }
        if gained:
            for key, (value, share) in gained.items():
                totals[key] += share * value / shares[key]
            shares = _exp3_shares(totals, step)
            step += 1
    return shares


def _exp3_shares(totals: Mapping[str, float], step: int) -> dict[str, float]:
    n = len(totals)
    before, now = (min(1 / n, math.sqrt(math.log(n) / (n * t))) for t in (step, step + 1))
    highest = max(totals.values())
    weights = {key: math.exp(before * (total - highest)) for key, total in totals.items()}
    scale = (1 - n * now) / sum(weights.values())
    return {key: scale * weight + now for key, weight in weights.items()}


def _spent(past: Round, score: SliceScore) -> float:
    """Return the share of a round's images that are of a slice."""
    assert past.plan is not None  # `changes` names rounds with a plan only
    return sum(p.count for p in past.plan.prompts if agrees(p, score)) / past.plan.n_images


def group_dro(
    rounds: Sequence[Round], slices: Sequence[SliceScore], eta: float
) -> dict[str, float]:
    """Return q of every slice after a history; they add up to 1."""
    logs = dict.fromkeys((score.key for score in slices), 0.0)
    for past in rounds:
        for score in past.report.slices if past.report else ():
            if score.key in logs:
                logs[score.key] += eta * (1 - score.accuracy.value)
    highest = max(logs.values())
    weights = {key: math.exp(value - highest) for key, value in logs.items()}
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()}


def build(method: Method = "exp3", eta: float = 2.0) -> SlicePlanner:
    """Build the planner; eta: step of GroupDRO. Raises SettingsError for an unknown method."""
    methods: dict[str, Shares] = {
        "exp3": lambda seen, slices: exp3(seen.rounds, slices),
        "groupdro": lambda seen, slices: group_dro(seen.rounds, slices, eta),
    }
    if method not in methods:
        raise SettingsError(unknown("method of mixing", method, methods))
    return SlicePlanner("mixing", methods[method], Uniform())
