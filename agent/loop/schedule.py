"""How the images of the rounds that remain are spread, and what each of these rounds is for.

A plan says it by its lever `later`, a person by a preference, which counts before a model's.
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
    """Return the rounds from `number` on that are scheduled, by their numbers."""
    plans = [(r.number + 1, r.plan.levers.later) for r in past if r.plan and r.plan.levers]
    rounds = [(start, later) for start, later in plans if later][-1:]
    rounds += [(p.since, p.schedule) for p in preferences if p.schedule]
    all_ = {n: one for start, later in rounds for n, one in enumerate(later, start)}
    return {n: one for n, one in sorted(all_.items()) if n >= number}


def own_schedule(
    preferences: Sequence[Preference], past: Sequence[Round], number: int
) -> tuple[LaterRound, ...]:
    """Return what a model scheduled for a round and those after, unless a person did."""
    if number in schedule(preferences, (), number):
        return ()
    return tuple(schedule((), past, number).values())


def budget(
    settings: Settings, preferences: Sequence[Preference], past: Sequence[Round], number: int
) -> int:
    """Return how many images a round makes, unless its plan says another number."""
    scheduled = schedule(preferences, past, number).get(number)
    return scheduled.n_images if scheduled else settings.session.images_per_round


def round_sizes(settings: Settings, planned: Mapping[int, LaterRound], first: int) -> list[int]:
    """Return how many images each round of the session from `first` on makes by a schedule."""
    session = settings.session
    return [
        planned[number].n_images if number in planned else session.images_per_round
        for number in range(first, session.rounds + 1)
    ]


def left_over(
    settings: Settings, preferences: Sequence[Preference], past: Sequence[Round], one: Round
) -> int:
    """Return the images that a round leaves to later ones; negative: that it takes from them."""
    levers = one.plan.levers if one.plan else None
    before = [r for r in past if r.number < one.number]
    n_images = budget(settings, preferences, before, one.number)
    return settings.session.images_per_round - ((levers and levers.n_images) or n_images)


def images_left(settings: Settings, spare: int, past: Sequence[Round], number: int) -> int:
    """Return how many images the rounds from `number` on may make in all.

    Args:
        settings: Of the session.
        spare: Images that earlier rounds have left.
        past: The rounds before.
        number: Of the next round.
    """
    session, most = settings.session, settings.limits.max_images
    left = session.images_per_round * max(0, session.rounds - number + 1) + spare
    made = sum(r.batch.n_made for r in past if r.batch)
    return left if most is None else min(left, most - made)


def slice_of(name: str) -> dict[str, str]:
    """Return the values of a slice by its name, as of the shares of a plan."""
    return SliceShare.model_validate({"where": name, "share": 1}).where


def preferences_of(
    preferences: Sequence[Preference], scheduled: Sequence[LaterRound], number: int
) -> list[Preference]:
    """Return the preferences for one round: those of a schedule become what the round is for.

    Args:
        preferences: Those that hold.
        scheduled: The round, as a model has scheduled it; nothing: it has not.
        number: Of the round.
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
