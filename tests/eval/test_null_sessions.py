"""Sessions in which no image has an effect and no slice is worse than another, by simulation."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import pytest

from eval.credit import settle
from eval.effects import slice_effects
from eval.slices import failing_slices, share_of_alpha, slice_report
from memory.records import Hypothesis, Report
from tests.factories import plan_by_slices

N_SLICES, N_PHOTOGRAPHS, N_ROUNDS = 12, 480, 4
BY = [("a",)]
# The full size of the issue takes a minute: N_NULL_SESSIONS=1000.
N_SESSIONS = int(os.environ.get("N_NULL_SESSIONS", "40"))


def null_session(seed: int, dense: bool) -> Mapping[str, list[bool | None]]:
    """Return verdicts of a session, and whether a round has a significant failure."""
    rng = np.random.default_rng(seed)
    attributes = [{"a": f"v{k}"} for k in rng.integers(0, N_SLICES, N_PHOTOGRAPHS)]
    ids = [str(i) for i in range(N_PHOTOGRAPHS)]
    easy = rng.beta(4, 1, N_PHOTOGRAPHS)  # photographs are easy or hard in every round
    verdicts: list[bool | None] = []
    failed: list[bool | None] = []
    before: Report | None = None
    for number in range(1, N_ROUNDS + 1):
        level = rng.normal(0, 0.02) + 0.02 * number  # retraining, and more images for all
        chances = np.clip(easy + level, 0, 1)
        right = rng.random(N_PHOTOGRAPHS) < chances
        scores = np.clip(chances - rng.beta(1, 20, N_PHOTOGRAPHS), 0, 1) if dense else right
        alpha = 0.05 * share_of_alpha(number)
        found = failing_slices(scores, attributes, ids, BY, 10, alpha)
        failed.append(any(f.significant for f in found))
        report = slice_report({}, scores, attributes, BY, 10, number, "feedback")
        if before is not None and before.worst_slice:
            guess = Hypothesis(slice=before.worst_slice, expected_change=0.01)
            # A floor of 4 images for every slice, and 48 more for one.
            counts = [52 if guess.slice == f"a=v{i}" else 4 for i in range(N_SLICES)]
            effects = slice_effects(plan_by_slices(counts, number), before, report)
            verdicts.append(settle(guess, before, report, effects).held)
        before = report
    return {"verdicts": verdicts, "failed": failed}


@pytest.mark.parametrize("dense", [False, True])
def test_nothing_comes_of_nothing(dense: bool) -> None:
    sessions = [null_session(seed, dense) for seed in range(N_SESSIONS)]
    verdicts = [held for session in sessions for held in session["verdicts"]]
    assert verdicts.count(True) <= 0.06 * len(verdicts)
    n_failed = sum(any(session["failed"]) for session in sessions)
    assert n_failed <= 0.06 * N_SESSIONS
