"""What is known when a round begins: from the journal and the memory to the facts of a briefing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.loop.context import Facts
from agent.loop.state import EventLog, SessionView
from agent.planners import Observation
from agent.steering.preferences import (
    Preference,
    active_preferences,
    effects,
    say_effects,
    say_preferences,
)
from memory.items import Hit, MemoryItem
from memory.records import Failure, Report, Round

if TYPE_CHECKING:
    from agent.loop.components import Components

# Rounds that an observation looks back on; keeps messages and time per round flat.
LOOK_BACK = 20
# Lessons and prompts that are recalled for an observation, and hits for a prompt of a plan.
N_RECALLED = 6
# Characters of the opening per token of a prompt: half of the space, at three characters a token.
OPENING_SHARE = 1.5


def rounds_before(journal: EventLog, number: int) -> list[Round]:
    """Return the rounds before one, as many as are looked back on."""
    rounds = journal.rounds(LOOK_BACK + 1)
    return [r for r in rounds if r.number < number][-LOOK_BACK:]


def held_wishes(journal: EventLog) -> list[Preference]:
    """Return the wishes that hold now, the oldest first."""
    return active_preferences(journal.events("wish", "forget"))


def seconds_per_image(past: Sequence[Round]) -> float | None:
    """Return how long an image took in the last round that made some, or None."""
    for done in reversed(past):
        if done.batch and done.batch.n_made and "generate" in done.seconds:
            return done.seconds["generate"] / done.batch.n_made
    return None


def observe(session: SessionView, round_number: int) -> Observation:
    """Return what a planner may know at the start of a round."""
    settings = session.settings.session
    return Observation(
        round=round_number,
        n_images=settings.images_per_round,
        images_per_prompt=settings.images_per_prompt,
        seed=settings.seed,
        rounds=tuple(rounds_before(session.journal, round_number)),
    )


def gather(
    bench: Components, observation: Observation, tokens_left: int | None, usd_left: float | None
) -> Facts:
    """Return what a brain is told at the start of a round; searches the memory."""
    settings, target = bench.session.settings, bench.target
    round_number, past = observation.round, observation.rounds
    reports = [r.report for r in past if r.report]
    failures = past[-1].failures if past else ()
    lessons, similar = _remembered(bench, reports[-1] if reports else None, failures)
    wanted = held_wishes(bench.session.journal)
    return Facts(
        target=target.name,
        class_names=target.class_names,
        vocabulary=target.vocabulary,
        round=round_number,
        rounds=settings.session.rounds,
        n_images=observation.n_images,
        images_left=observation.n_images * (settings.session.rounds - round_number + 1),
        images_per_prompt=observation.images_per_prompt,
        max_chars=int(OPENING_SHARE * settings.llm.context_tokens),
        report=reports[-1] if reports else None,
        previous=reports[-2] if len(reports) > 1 else None,
        failures=failures,
        verdict=past[-1].verdict if past else None,
        lessons=lessons,
        similar=similar,
        steering=_steering(bench.session.journal, past, wanted),
        wishes=[wish.id for wish in wanted],
        seconds_per_image=seconds_per_image(past),
        tokens_left=tokens_left,
        usd_left=usd_left,
    )


def _steering(journal: EventLog, past: Sequence[Round], wanted: Sequence[Preference]) -> list[str]:
    """Return what the user has said and wishes."""
    answers = [
        f"asked {event['question']!r}, the user said: {event['answer']}"
        for event in journal.events("answer")[-LOOK_BACK:]
    ]
    moved = journal.events("steered", since=past[0].number) if past and wanted else []
    so_far = "; ".join(say_effects(effects(wanted, moved, past)))
    return answers + say_preferences(wanted) + ([f"so far: {so_far}"] if so_far else [])


def _remembered(
    bench: Components, report: Report | None, failures: Sequence[Failure]
) -> tuple[list[MemoryItem], list[Hit]]:
    """Return lessons and prompts of the memory that bear on what is worst now."""
    slices = [f.slice for f in failures if f.significant and f.kind == "slice"][:3]
    if not slices and report and report.worst_slice:
        slices = [report.worst_slice]
    query = "what helped on " + (", ".join(slices) or "all photographs")
    target = bench.target.name
    lessons = bench.memory.search(query, n=N_RECALLED, kind="lesson", target=target)
    similar = bench.memory.search(query, n=N_RECALLED, kind="prompt", target=target)
    return [hit.item for hit in lessons], similar
