"""Evidence pooled over sessions: prompts that helped, hypotheses, calibration, costs.

Pure functions over the tables of `eval.tables`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median_high
from typing import Any

import numpy as np
from pydantic import Field

from eval.intervals import mean_interval, no_change
from eval.metrics import wilson
from eval.slices import benjamini_hochberg
from memory.records import Estimate, Record
from prompts.user_vocabulary import value_of

Row = Mapping[str, Any]

# Fewest rounds of a group: the prompts of one round share one training and its noise.
MIN_ROUNDS = 2
# False discovery rate of the prompts that are listed as helpful or harmful.
ALPHA = 0.05


class Helped(Record):
    """A group of prompts with the same class and main attributes, and its mean credit on a slice.

    Attributes:
        words: class and attribute values of the group.
        slice: key of the slice.
        n_prompts: number of prompts.
        n_images: number of images generated from them.
        change_per_100: credit per 100 images, averaged over rounds; n counts rounds.
        q_value: of Student's t-test of no change, Benjamini-Hochberg over all groups.
    """

    words: str
    slice: str
    n_prompts: int = Field(ge=1)
    n_images: int = Field(ge=0)
    change_per_100: Estimate
    q_value: float = Field(ge=0, le=1)


class Bin(Record):
    """A bin of changes with similar expectations, and their mean measured change."""

    n: int = Field(ge=1)
    expected: float
    measured: Estimate


class Calibration(Record):
    """Expected against measured changes.

    Attributes:
        points: pairs of expected and measured change.
        bins: bins of the points, by expected change.
        bias: mean of measured minus expected.
        error: mean absolute difference.
        slope: slope of the least-squares line, 1 if expectations are right on average, 0 if they
            are uninformative; None where all expectations are equal.
    """

    points: tuple[tuple[float, float], ...]
    bins: tuple[Bin, ...]
    bias: float
    error: float
    slope: float | None


class BrainStatistics(Record):
    """Statistics of the decisions of one session's brain."""

    session: str
    brain: str
    n_rounds: int = Field(ge=0)
    n_calls: int = Field(ge=0)
    legal: Estimate | None
    n_fallbacks: int = Field(ge=0)
    n_settled: int = Field(ge=0)
    held: Estimate | None
    tokens_per_decision: float
    seconds_per_decision: float
    usd: float
    first_score: float | None
    last_score: float | None


class Stage(Record):
    """The time of one stage over all sessions; share: of the time of all stages, 0..1."""

    stage: str
    n: int = Field(ge=1)
    seconds: float
    median_s: float
    share: float


class Evidence(Record):
    """The evidence of all given sessions."""

    brains: tuple[BrainStatistics, ...]
    hypotheses: Calibration | None = Field(description="as the brains stated them")
    memory: Calibration | None = Field(description="as the memory let a plan expect")
    helped: tuple[Helped, ...]
    harmed: tuple[Helped, ...]
    stages: tuple[Stage, ...]


def evidence(tables: Mapping[str, Sequence[Row]], n_shown: int = 12) -> Evidence:
    """Summarise the tables of sessions.

    At most `n_shown` groups of prompts that helped, and as many that harmed, are listed, of those
    whose mean change over the rounds differs from 0 at a false discovery rate of 5%.
    """
    ranked = [h for h in _helped(tables["prompts"], tables["credits"]) if h.q_value <= ALPHA]
    up = [h for h in ranked if h.change_per_100.value > 0]
    down = [h for h in reversed(ranked) if h.change_per_100.value < 0]
    stated = [
        (row["expected_change"], row["measured_change"])
        for row in tables["rounds"]
        if row["measured_change"] is not None and row["expected_change"] is not None
    ]
    foreseen = [
        (row["expected_change"], row["change"])
        for row in tables["slices"]
        if row["change"] is not None and row["expected_change"] is not None
    ]
    return Evidence(
        brains=tuple(_brains(tables)),
        hypotheses=calibration(stated),
        memory=calibration(foreseen),
        helped=tuple(up[:n_shown]),
        harmed=tuple(down[:n_shown]),
        stages=tuple(_stages(tables["costs"])),
    )


def calibration(points: Sequence[tuple[float, float]], n_bins: int = 5) -> Calibration | None:
    """Compare expected with measured changes, in bins of equal size; None without points."""
    if not points:
        return None
    expected, measured = np.array(sorted(points)).T
    edges = np.linspace(0, len(points), min(n_bins, len(points)) + 1).round().astype(int)
    bins = [
        Bin(
            n=int(end - start),
            expected=float(expected[start:end].mean()),
            measured=_mean(measured[start:end].tolist()),
        )
        for start, end in pairwise(edges)
    ]
    (spread, together), _ = np.cov(expected, measured, bias=True)
    return Calibration(
        points=tuple(points),
        bins=tuple(bins),
        bias=float((measured - expected).mean()),
        error=float(np.abs(measured - expected).mean()),
        slope=float(together / spread) if spread > 1e-12 else None,
    )


def _helped(prompts: Sequence[Row], credits_: Sequence[Row]) -> list[Helped]:
    """Return the groups of similar prompts, sorted by their mean credit on a slice."""
    by_id = {(p["session"], p["round"], p["prompt"]): p for p in prompts}
    changes: dict[tuple[str, str], dict[tuple[str, int], list[tuple[float, int]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in credits_:
        prompt = by_id.get((row["session"], row["round"], row["prompt"]))
        if prompt is not None:
            attributes = json.loads(prompt["attributes"])
            # A class that is also an attribute value, as in a user's data set, is named once.
            others = [v for v in attributes.values() if v != value_of(prompt["class_name"])]
            words = " ".join([prompt["class_name"], *others[:3]])
            of_round = changes[words, row["slice"]][row["session"], row["round"]]
            of_round.append((row["change_per_100"], row["n_images"]))
    grouped = {group: list(r.values()) for group, r in changes.items() if len(r) >= MIN_ROUNDS}
    means = [
        [sum(change for change, _ in pairs) / len(pairs) for pairs in of_group]
        for of_group in grouped.values()
    ]
    q_values = benjamini_hochberg([no_change(values) for values in means])
    groups = [
        Helped(
            words=words,
            slice=key,
            n_prompts=sum(map(len, of_group)),
            n_images=sum(n for pairs in of_group for _, n in pairs),
            change_per_100=_mean(values),
            q_value=q_value,
        )
        for ((words, key), of_group), values, q_value in zip(
            grouped.items(), means, q_values, strict=True
        )
    ]
    return sorted(groups, key=lambda h: (-h.change_per_100.value, h.words, h.slice))


def _brains(tables: Mapping[str, Sequence[Row]]) -> list[BrainStatistics]:
    brains = []
    for session in dict.fromkeys(row["session"] for row in tables["rounds"]):
        rounds = [row for row in tables["rounds"] if row["session"] == session]
        brain = rounds[0]["brain"]
        calls = [c for c in tables["calls"] if c["session"] == session and c["author"] == brain]
        n_legal = sum(call["outcome"] == "legal" for call in calls)
        settled = [row["held"] for row in rounds if row["held"] is not None]
        scores = [row["score"] for row in rounds if row["score"] is not None]
        n = max(len(calls), 1)
        brains.append(
            BrainStatistics(
                session=session,
                brain=brain,
                n_rounds=sum(row["round"] > 0 for row in rounds),
                n_calls=len(calls),
                legal=wilson(n_legal, len(calls)) if calls else None,
                n_fallbacks=sum(row["n_fallbacks"] for row in rounds),
                n_settled=len(settled),
                held=wilson(sum(settled), len(settled)) if settled else None,
                tokens_per_decision=sum(c["prompt_tokens"] + c["answer_tokens"] for c in calls) / n,
                seconds_per_decision=sum(c["decision_s"] for c in calls) / n,
                usd=sum(c["usd"] for c in calls),
                first_score=scores[0] if scores else None,
                last_score=scores[-1] if scores else None,
            )
        )
    return brains


def _stages(costs: Sequence[Row]) -> list[Stage]:
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in costs:
        seconds[row["stage"]].append(row["seconds"])
    total = sum(map(sum, seconds.values())) or 1.0
    stages = [
        Stage(
            stage=stage,
            n=len(times),
            seconds=sum(times),
            median_s=median_high(times),
            share=sum(times) / total,
        )
        for stage, times in seconds.items()
    ]
    return sorted(stages, key=lambda s: -s.seconds)


def _mean(values: Sequence[float]) -> Estimate:
    """Return a mean with Student's t-interval; the interval of a single value is [-1, 1]."""
    if len(values) == 1:
        return Estimate(value=values[0], low=-1.0, high=1.0, n=1)
    return mean_interval(values)
