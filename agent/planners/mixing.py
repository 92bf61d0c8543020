"""Online mixing of slices: exponential weights on their progress, or GroupDRO on their errors.

Exponential weights with a known horizon (Hedge; Cesa-Bianchi and Lugosi 2006, theorem 2.2): pi =
(1 - e) softmax(eta R) + e / K with eta = sqrt(8 ln K / T), e = 0.1 and the cumulated reward R of a
slice in a session of T rounds. Online data mixing (Albalak et al. 2023) uses Exp3, which observes
the reward of one arm at a time: it is uniform until t > K ln K, more rounds than a session has, and
divides by pi, which favours slices that overlap with many prompts. Here a report measures every
slice, so Hedge applies.
GroupDRO (Sagawa et al., ICLR 2020): q_g is multiplied by exp(eta error_g) with every report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.special import softmax

from agent.planners.slices import Shares, SlicePlanner, reward, slice_changes
from agent.planners.uniform import Uniform
from memory.errors import SettingsError, unknown
from memory.records import Round, SliceScore

Method = Literal["hedge", "groupdro"]

# Share of the images that is spread evenly over the slices, e above.
_EXPLORED = 0.1


def hedge(
    rounds: Sequence[Round], slices: Sequence[SliceScore], horizon: int = 4
) -> dict[str, float]:
    """Return the shares of the slices after a history; they add up to 1.

    Args:
        rounds: Earlier rounds.
        slices: Slices that may get images.
        horizon: Number of rounds of the session, T.
    """
    totals = dict.fromkeys((score.key for score in slices), 0.0)
    for change in slice_changes(rounds):
        if change.after.key in totals:
            totals[change.after.key] += reward(change.effect)
    eta = math.sqrt(8 * math.log(max(2, len(totals))) / horizon)
    shares = softmax(eta * np.array(list(totals.values())))
    mixed = (1 - _EXPLORED) * shares + _EXPLORED / len(totals)
    return dict(zip(totals, map(float, mixed), strict=True))


def group_dro(
    rounds: Sequence[Round], slices: Sequence[SliceScore], eta: float
) -> dict[str, float]:
    """Return the weights q of the slices after a history; they add up to 1."""
    logs = dict.fromkeys((score.key for score in slices), 0.0)
    for past in rounds:
        for score in past.report.slices if past.report else ():
            if score.key in logs:
                logs[score.key] += eta * (1 - score.accuracy.value)
    return dict(zip(logs, map(float, softmax(list(logs.values()))), strict=True))


def build(method: Method = "hedge", eta: float = 2.0, horizon: int = 4) -> SlicePlanner:
    """Build the planner.

    Args:
        method: "hedge" (exponential weights on progress) or "groupdro" (on errors).
        eta: Step size of GroupDRO.
        horizon: Number of rounds of a session, for Hedge.

    Raises:
        SettingsError: The method is unknown.
    """
    methods: dict[str, Shares] = {
        "hedge": lambda seen, slices: hedge(seen.rounds, slices, horizon),
        "groupdro": lambda seen, slices: group_dro(seen.rounds, slices, eta),
    }
    if method not in methods:
        raise SettingsError(unknown("method of mixing", method, methods))
    return SlicePlanner("mixing", methods[method], Uniform())
