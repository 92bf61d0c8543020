"""A made-up session with all that a report can show, from a seeded generator."""

from __future__ import annotations

import random
from functools import cache
from math import sqrt
from typing import Any

import numpy as np

from eval.montage import montage_png
from eval.report.page import ReportData
from memory.records import (
    Batch,
    Credit,
    Estimate,
    Failure,
    Hypothesis,
    Plan,
    PromptQuality,
    PromptSpec,
    Report,
    Round,
    Shard,
    Training,
    Verdict,
)
from tests import factories
from tests.factories import slice_score

WAFERS = ("mono", "poly")
SEVERITIES = ("functional", "suspect", "probable", "defective")
BRIGHTNESS = ("dark", "medium", "bright")
PLACES = ("left", "right", "top", "bottom", "centre")
STAGES = {"plan": 0.4, "generate": 31.0, "audit": 2.2, "train": 14.5, "evaluate": 1.9}


def share(p: float, n: int) -> Estimate:
    half = 1.96 * sqrt(p * (1 - p) / n)
    return Estimate(value=p, low=max(p - half, 0), high=min(p + half, 1), n=n)


@cache
def tiles(n: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    images = rng.normal(150, 40, (n, 1, 16, 16)).clip(0, 255).astype(np.uint8)
    return montage_png(images, None, columns=n, scale=1)


def prompt(rng: random.Random, round_number: int, index: int, count: int) -> PromptSpec:
    said = {
        "wafer": rng.choice(WAFERS),
        "severity": rng.choice(SEVERITIES),
        "brightness": rng.choice(BRIGHTNESS),
    }
    text = f"a {said['brightness']} {said['wafer']}crystalline solar cell, {said['severity']}"
    if said["severity"] != "functional" and rng.random() < 0.7:
        said["where"] = rng.choice(PLACES)
        text += f", with a dark area at the {said['where']}"
    return PromptSpec(
        id=f"r{round_number:03d}p{index:02d}",
        text=text,
        class_name="functional" if said["severity"] in SEVERITIES[:2] else "defective",
        attributes=said,
        count=count,
        why="explores a rare condition" if index % 3 == 0 else "",
    )


def report(rng: random.Random, number: int, split: str, level: float) -> Report:
    slices = []
    for wafer in WAFERS:
        for severity in SEVERITIES:
            for brightness in BRIGHTNESS:
                named = {"wafer": wafer, "severity": severity, "brightness": brightness}
                n = rng.randint(12, 90)
                p = min(max(level + rng.gauss(0, 0.13), 0.1), 0.97)
                score = slice_score(named, round(p * n) / n, n)
                slices.append(score.model_copy(update={"accuracy": share(score.n_correct / n, n)}))
    metrics = {
        "accuracy": share(level + 0.05, 525),
        "balanced_accuracy": share(level, 525),
        "auroc": share(level + 0.07, 525),
    }
    worst = min(slices, key=lambda s: s.accuracy.value)
    return factories.report(
        *slices, number=number, split=split, metrics=metrics, worst_slice=worst.key
    )


def failures(rng: random.Random, of: Report) -> tuple[Failure, ...]:
    worst = sorted(of.slices, key=lambda s: s.accuracy.value)[:9]
    found = []
    for rank, s in enumerate(worst):
        n = s.accuracy.n
        wrong = n - s.n_correct
        p = min(10 ** (rank - 5.0) * rng.uniform(0.5, 1.5), 1.0)
        found.append(
            factories.failure(
                s.attributes,
                n=n,
                n_wrong=wrong,
                error_rate=share(wrong / n, n),
                rest_error_rate=0.27,
                p_value=p,
                q_value=min(p * 4, 1.0),
                significant=p * 4 < 0.05,
                examples=("cell0012",),
            )
        )
    return tuple(found)


def session(n_rounds: int = 4, n_prompts: int = 8, count: int = 25, **changes: Any) -> ReportData:
    """Return a whole session; `changes` replace fields of ReportData."""
    rng = random.Random(7)
    rounds: list[Round] = []
    sealed = []
    montages: dict[str, bytes] = {}
    for number in range(1, n_rounds + 1):
        level = 0.74 - 0.15 / number + rng.gauss(0, 0.006)
        prompts = tuple(prompt(rng, number, i, count) for i in range(n_prompts))
        measured = report(rng, number, "feedback", level)
        sealed.append(report(rng, number, "test", level - 0.02))
        previous = rounds[-1].report if rounds else None
        hypothesis = verdict = None
        if previous and previous.worst_slice:
            hypothesis = Hypothesis(slice=previous.worst_slice, expected_change=0.08)
            before, after = (
                next(s.accuracy for s in r.slices if s.key == hypothesis.slice)
                for r in (previous, measured)
            )
            change = after.value - before.value
            verdict = Verdict(
                hypothesis=hypothesis, before=before, after=after, change=change, held=change > 0.04
            )
        kept = [rng.randint(count // 2, count) for _ in prompts]
        rounds.append(
            Round(
                number=number,
                plan=Plan(
                    round=number,
                    author="policy:thompson",
                    prompts=prompts,
                    hypothesis=hypothesis,
                    why="More of what the worst slice lacks." if hypothesis else "",
                    warnings=("r001p03 is over the token limit",) if number == 1 else (),
                ),
                batch=Batch(
                    round=number,
                    job_id=f"job{number}",
                    shards=(Shard(file="data-0.parquet", n_images=count, sha256="0" * 64),),
                    quality=tuple(
                        PromptQuality(prompt_id=p.id, n_made=count, n_kept=k, mean_weight=k / count)
                        for p, k in zip(prompts, kept, strict=True)
                    ),
                ),
                training=Training(
                    round=number,
                    job_id=f"train{number}",
                    model="model",
                    n_images=number * n_prompts * count,
                    n_steps=400,
                    final_loss=0.52 / number**0.3,
                    sha256="0" * 64,
                ),
                report=measured,
                failures=failures(rng, measured),
                credits=tuple(
                    Credit(
                        prompt_id=p.id,
                        slice=s.key,
                        n_images=k,
                        change_per_100=rng.gauss(0.004, 0.012),
                    )
                    for p, k in zip(prompts, kept, strict=True)
                    for s in measured.slices
                    if all(p.attributes[key] == value for key, value in s.attributes.items())
                ),
                verdict=verdict,
                seconds={k: v * rng.uniform(0.9, 1.2) for k, v in STAGES.items()},
                fallbacks=int(number == 2),
            )
        )
        montages |= {p.id: tiles(8, number) for p in prompts}
    every = ReportData(
        session="solar-0007",
        settings={"seed": 7, "target": {"name": "elpv", "size_px": 64}, "loop": {"rounds": 4}},
        notice="The photographs are licensed CC BY-NC-SA 4.0: credit to the authors.",
        rounds=rounds,
        sealed=sealed,
        prompt_montages=montages,
        failure_montages={f.id: tiles(6, 5) for r in rounds for f in r.failures},
        events=[
            {
                "schema": 1,
                "time": "2025-05-06T07:08:09.123456+00:00",
                "kind": "fallback",
                "round": 2,
                "reason": "the chat model gave no valid call",
                "phase": "propose_plan",
            },
            {
                "schema": 1,
                "time": "2025-05-06T07:18:09+00:00",
                "kind": "fault",
                "what": "killed",
                "told": "The process was killed in round 3, stage generate.",
            },
        ],
        reproduce=("shaping run solar --seed 7 --rounds 4 --session solar-0007-again",),
    )
    return ReportData(**{**vars(every), **changes})
