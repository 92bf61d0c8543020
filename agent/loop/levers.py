"""Levers of a plan besides its prompts: size of the round, training, images of earlier rounds.

They are offered to models that call tools natively; each lever only in rounds in which it has an
effect, and within bounds derived from the settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.config.settings import Settings
from agent.loop.schedule import budget, images_left, round_sizes, schedule, slice_of
from agent.loop.validation import LEAST_PROMPTS
from agent.steering.preferences import Preference
from memory.records import LaterRound, Levers, Round
from prompts.vocabulary import Vocabulary

# Largest factor by which steps and learning rate of a training may differ from the settings.
STEPS, RATE = 4, 10
_SHARES = "what the round is for: least shares by slice"
# Bounds of the share of generated images: both photographs and images are used.
SHARES = (0.05, 0.95)
GUIDANCE = (0.0, 20.0)
# Maximum number of rounds in a schedule, as in an observation.
SCHEDULED = 20

Bounds = Mapping[str, tuple[float, float]]
Json = dict[str, Any]


def lever_bounds(
    settings: Settings,
    preferences: Sequence[Preference],
    past: Sequence[Round],
    number: int,
    spare: int,
    accepts_guidance: bool,
) -> Bounds:
    """Return the lowest and the highest value of each lever that has an effect in a round.

    For `later`, the pair is the number of rounds to schedule, and the maximum number of images of
    these and the round itself.

    Args:
        settings: Settings of the session.
        preferences: Active preferences; `n_images` is no lever in a round that they schedule.
        past: The earlier rounds.
        number: Number of the round.
        spare: Images that earlier plans did not use.
        accepts_guidance: Whether the generator supports a guidance scale per prompt.
    """
    size, dstm = settings.session.images_per_round, settings.dstm
    bounds: dict[str, tuple[float, float]] = {}
    if number not in schedule(preferences, (), number):
        n_after = max(0, settings.session.rounds - number)
        n_later, left = min(n_after, SCHEDULED), images_left(settings, spare, past, number)
        planned = schedule(preferences, past, number)
        now = budget(settings, preferences, past, number)
        after = sum(round_sizes(settings, planned, number + 1))
        bounds["n_images"] = (min(LEAST_PROMPTS, now), max(now, left - after))
        if n_later:
            bounds["later"] = (n_later, left - size * (n_after - n_later))
    bounds |= {
        "steps": (max(1, dstm.steps // STEPS), STEPS * dstm.steps),
        "learning_rate": (dstm.learning_rate / RATE, RATE * dstm.learning_rate),
    }
    if accepts_guidance:
        bounds["guidance"] = GUIDANCE
    if dstm.train_on == "real+synthetic" and any(r.training and r.training.n_real for r in past):
        bounds["synthetic_share"] = SHARES
    if any(r.batch for r in past):
        bounds["earlier"] = (0, 1)
    return bounds


def lever_problems(
    levers: Levers, bounds: Bounds, vocabulary: Vocabulary, past: Sequence[Round], n_images: int
) -> list[str]:
    """Return the problems of levers, with numbers; empty if there are none.

    n_images: Scheduled number of images of the round.
    """
    problems = []
    for name, value in _values(levers).items():
        if name not in bounds:
            problems.append(f"{name} has no effect in this round: leave it out")
        elif name == "later":
            sizes = [levers.n_images or n_images, *(one.n_images for one in levers.later)]
            n_rounds, left = map(int, bounds[name])
            problems += schedule_problems(sizes, levers.later, n_rounds, left, vocabulary)
        elif name == "n_images" and levers.later and value >= bounds[name][0]:
            continue  # checked together with the later rounds
        elif name != "earlier" and not bounds[name][0] <= value <= bounds[name][1]:
            low, high = bounds[name]
            problems.append(f"{name} is {value:g}; it may be {low:g} to {high:g}")
    numbers = [r.number for r in past if r.batch]
    for one in levers.earlier:
        problems += vocabulary.problems(one.where)
        if foreign := sorted(set(one.rounds) - set(numbers)):
            problems.append(f"there are no images of the rounds {foreign}; there are of {numbers}")
    return problems


def schedule_problems(
    sizes: Sequence[int],
    later: Sequence[LaterRound],
    n_rounds: int,
    left: int,
    vocabulary: Vocabulary,
) -> list[str]:
    """Return the problems of a schedule, with numbers; empty if there are none.

    Args:
        sizes: Number of images of each round, including rounds that share the budget with these.
        later: The scheduled rounds.
        n_rounds: Number of rounds that have to be scheduled.
        left: Number of images that may be drawn in all these rounds.
        vocabulary: Vocabulary of the target.
    """
    problems = []
    if len(later) != n_rounds:
        problems.append(f"{len(later)} rounds are scheduled; {n_rounds} are to come")
    if sum(sizes) > left:
        total = " + ".join(map(str, sizes))
        problems.append(f"{total} = {sum(sizes)} images; {left} are left in all")
    if low := [size for size in sizes if size < LEAST_PROMPTS]:
        problems.append(f"a round of {low[0]} images is too small; {LEAST_PROMPTS} are the least")
    for one in later:
        if (total_share := sum(one.shares.values())) > 1.001:
            problems.append(f"the shares of a round add up to {total_share:.2f}, more than 1")
        for name in one.shares:
            problems += vocabulary.problems(slice_of(name)) or (
                [] if slice_of(name) else [f"{name!r} is no slice"]
            )
    return problems


def training_changes(levers: Levers | None, before: Json, past: Sequence[Round]) -> Json:
    """Return the settings of the DSTM that the levers of a plan change.

    Args:
        levers: Levers of the plan, or None.
        before: Changes of the previous training, whose prompt weights remain in effect.
        past: The earlier rounds.
    """
    changes = {key: before[key] for key in ("prompt_weights",) if key in before}
    if levers is None:
        return changes
    given = levers.model_dump(include={"synthetic_share", "steps", "learning_rate"})
    changes |= {key: value for key, value in given.items() if value is not None}
    weights = dict(changes.get("prompt_weights", {}))
    for one in levers.earlier:
        for earlier in past:
            if earlier.plan and (not one.rounds or earlier.number in one.rounds):
                of = [p for p in earlier.plan.prompts if one.where.items() <= p.attributes.items()]
                weights |= {prompt.id: one.weight for prompt in of}
    if weights:
        changes["prompt_weights"] = weights
    return changes


def lever_schema(bounds: Bounds, values: Json, rounds: Sequence[int]) -> Json:
    """Return the JSON schema of the levers of a round.

    Args:
        bounds: See `lever_bounds`.
        values: Schema of attribute values.
        rounds: Numbers of the earlier rounds with images.
    """
    properties: Json = {}
    for name, (low, high) in bounds.items():
        field = Levers.model_fields[name]
        if name == "earlier":
            each = {"where": values, "rounds": _list({"enum": list(rounds)})}
            each["weight"] = {"type": "number", "minimum": low, "maximum": high}
            one = {"type": "object", "properties": each, "required": ["weight"]}
            properties[name] = _list(one) | {"description": field.description}
        elif name == "later":
            share = {"type": "number", "minimum": 0, "maximum": 1}
            shares = {"type": "object", "additionalProperties": share, "description": _SHARES}
            size = {"type": "integer", "minimum": LEAST_PROMPTS, "maximum": high}
            each = {"n_images": size, "shares": shares}
            one = {"type": "object", "properties": each, "required": ["n_images"]}
            properties[name] = (
                _list(one)
                | {"minItems": low, "maxItems": low}
                | {"description": f"{field.description}; with this one {high} images"}
            )
        else:
            if name == "n_images" and "later" in bounds:
                high = bounds["later"][1] - LEAST_PROMPTS * bounds["later"][0]
            kind = "integer" if name in ("n_images", "steps") else "number"
            limits = {"type": kind, "minimum": low, "maximum": high}
            properties[name] = limits | {"description": field.description}
    return {
        "type": "object",
        "description": "Optional; what is left out stays as the settings say.",
        "properties": properties,
        "additionalProperties": False,
    }


def _list(items: Json) -> Json:
    return {"type": "array", "items": items, "maxItems": 20}


def _values(levers: Levers) -> Json:
    """Return the levers that are set."""
    values = {name: getattr(levers, name) for name in Levers.model_fields}
    return {name: value for name, value in values.items() if value not in (None, ())}
