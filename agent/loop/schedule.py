"""Schedules: sizes of the remaining rounds, and shares of their images by slice.

They are set by the lever `later` of a plan or by a preference of the user, which takes precedence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.config.settings import Settings
from agent.planners import SliceShare
from agent.steering.preferences import Preference
from memory.records import LaterRound, Round


def schedule(
    preferences: Sequence[Preference], past: Sequence[Round], number: int
) -> dict[int, LaterRound]:
    """Return the scheduled rounds from `number` on, by round number."""
    plans = [(r.number + 1, r.plan.levers.later) for r in past if r.plan and r.plan.levers]
    rounds = [(start, later) for start, later in plans if later][-1:]
    rounds += [(p.since, p.schedule) for p in preferences if p.schedule]
    all_ = {n: one for start, later in rounds for n, one in enumerate(later, start)}
    return {n: one for n, one in sorted(all_.items()) if n >= number}


def own_schedule(
    preferences: Sequence[Preference], past: Sequence[Round], number: int
) -> tuple[LaterRound, ...]:
    """Return a model's schedule of a round and those after it; () if the user scheduled it."""
    if number in schedule(preferences, (), number):
        return ()
    return tuple(schedule((), past, number).values())


def budget(
    settings: Settings, preferences: Sequence[Preference], past: Sequence[Round], number: int
) -> int:
    """Return the number of images of a round, unless its plan sets another one."""
    scheduled = schedule(preferences, past, number).get(number)
    return scheduled.n_images if scheduled else settings.session.images_per_round


def round_sizes(settings: Settings, planned: Mapping[int, LaterRound], first: int) -> list[int]:
    """Return the scheduled number of images of each round of the session from `first` on."""
    session = settings.session
    return [
        planned[number].n_images if number in planned else session.images_per_round
        for number in range(first, session.rounds + 1)
    ]


def left_over(
    settings: Settings, preferences: Sequence[Preference], past: Sequence[Round], one: Round
) -> int:
    """Return the images that a round leaves to later rounds; negative if it takes some of theirs.

    Counted against `session.images_per_round`.
    """
    levers = one.plan.levers if one.plan else None
    before = [r for r in past if r.number < one.number]
    n_images = budget(settings, preferences, before, one.number)
    return settings.session.images_per_round - ((levers and levers.n_images) or n_images)


def images_left(settings: Settings, spare: int, past: Sequence[Round], number: int) -> int:
    """Return how many images the rounds from `number` on may draw in total.

    Args:
        settings: Settings of the session.
        spare: Images that earlier rounds did not use.
        past: The earlier rounds.
        number: Number of the next round.
    """
    session, most = settings.session, settings.limits.max_images
    left = session.images_per_round * max(0, session.rounds - number + 1) + spare
    made = sum(r.batch.n_made for r in past if r.batch)
    return left if most is None else min(left, most - made)


def slice_of(name: str) -> dict[str, str]:
    """Return the attribute values of a slice by its name, e.g. "brightness=dark wafer=poly"."""
    return SliceShare.model_validate({"where": name, "share": 1}).where


def preferences_of(
    preferences: Sequence[Preference], scheduled: Sequence[LaterRound], number: int
) -> list[Preference]:
    """Return the preferences for one round; shares that a schedule sets for it become preferences.

    Args:
        preferences: Active preferences.
        scheduled: The round in a model's schedule; empty if the model has not scheduled it.
        number: Number of the round.
    """
    wanted = [p for p in preferences if not p.schedule]
    rounds = [("schedule", one) for one in scheduled]
    for p in preferences:
        rounds += [(p.id, one) for n, one in enumerate(p.schedule, p.since) if n == number]
    for id_, one in rounds:
        for name, share in one.shares.items():
            attributes = {key: (value,) for key, value in slice_of(name).items()}
            wanted.append(Preference(id=id_, attributes=attributes, min_share=share, since=number))
    return wanted
