"""A recorded session with figures that tests know: two of three rounds are done, nothing runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.chat.conversation import Conversation
from agent.chat.live import LiveSession
from agent.session.folder import open_session
from memory.events import (
    BatchEvent,
    FailuresEvent,
    PlanEvent,
    ReportEvent,
    RoundDoneEvent,
    StageEvent,
    TrainingEvent,
)
from memory.records import Batch, Plan, PromptQuality, PromptSpec, Report, Training
from tests.agent.quick import toy_settings
from tests.factories import estimate, failure, slice_score

# By round: balanced accuracy, accuracy on dark, bright, poly and defective cells.
FIGURES = {
    0: (0.612, 0.512, 0.703, 0.634, 0.581),
    1: (0.655, 0.561, 0.711, 0.668, 0.607),
    2: (0.648, 0.574, 0.702, 0.659, 0.598),
}
SLICES = ({"brightness": "dark"}, {"brightness": "bright"}, {"wafer": "poly"},
          {"severity": "defective"})  # fmt: skip
N_KEPT = {1: 51, 2: 47}
PROMPTS = {
    1: [("dark", "poly", 24), ("bright", "poly", 18), ("bright", "mono", 18)],
    2: [("dark", "mono", 33), ("bright", "poly", 15), ("medium", "mono", 12)],
}


def _report(number: int, pixels: Mapping[str, Sequence[float]]) -> Report:
    main, *values = FIGURES[number]
    scores = [slice_score(s, v, 80, 0.04) for s, v in zip(SLICES, values, strict=True)]
    metrics = {"balanced_accuracy": estimate(main, 210, 0.04), "auroc": estimate(main + 0.1, 210)}
    metrics |= {f"iou {name}": estimate(ious[number], 210) for name, ious in pixels.items()}
    return Report(
        round=number, split="feedback", metrics=metrics, slices=tuple(scores),
        worst_slice="brightness=dark",
    )  # fmt: skip


def _plan(number: int) -> Plan:
    prompts = tuple(
        PromptSpec(
            id=f"r{number:03d}p{i:02d}",
            text=f"a {brightness} {wafer} cell",
            class_name="functional",
            attributes={"brightness": brightness, "wafer": wafer, "severity": "functional"},
            count=count,
            why=f"score 0.51 on brightness={brightness}" if brightness == "dark" else "spread",
        )
        for i, (brightness, wafer, count) in enumerate(PROMPTS[number])
    )
    return Plan(round=number, author="policy:audited_failure", prompts=prompts, why="dark is worst")


def _events(pixels: Mapping[str, Sequence[float]]) -> Iterator[Any]:
    for n in FIGURES:
        if n:
            plan = _plan(n)
            yield PlanEvent(key=f"plan/{n}", plan=plan)
            quality = [
                PromptQuality(prompt_id=p.id, n_made=p.count, n_kept=0, mean_weight=0.5)
                for p in plan.prompts
            ]
            quality[0] = quality[0].model_copy(update={"n_kept": N_KEPT[n]})
            batch = Batch(round=n, job_id="job", shards=(), quality=tuple(quality))
            yield BatchEvent(key=f"batch/{n}", batch=batch)
        training = Training(
            round=n, job_id="job", model=f"rounds/{n:03d}", n_images=60 * n, n_real=140, n_steps=3,
            final_loss=0.5, sha256="0" * 64,
        )  # fmt: skip
        yield StageEvent(key=f"stage/{n}/train", round=n, stage="train", seconds=95.0)
        yield TrainingEvent(key=f"training/{n}", training=training)
        yield ReportEvent(key=f"report/{n}", report=_report(n, pixels))
        failures = (failure({"brightness": "dark"}, 1 - FIGURES[n][1]),)
        yield FailuresEvent(key=f"failures/{n}", round=n, failures=failures)
        if n:
            yield RoundDoneEvent(key=f"round_done/{n}", round=n, summary=f"Round {n}.")


@contextmanager
def recorded(
    home: Path, *overrides: str, pixels: Mapping[str, Sequence[float]] | None = None
) -> Iterator[Conversation]:
    """Open a conversation about the session; nothing is started.

    pixels: IoU of classes of pixels by round.
    """
    settings = toy_settings(
        home, "session.name=recorded", "session.rounds=3", "session.images_per_round=60",
        "dstm.train_on=real+synthetic", "dstm.synthetic_share=0.4", *overrides,
    )  # fmt: skip
    with open_session(settings, "recorded") as session:
        for event in _events(pixels or {}):
            session.journal.append(event)
        live = LiveSession(session)
        try:
            yield Conversation(live)
        finally:
            live.close()
