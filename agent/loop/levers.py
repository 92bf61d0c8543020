"""Levers of a plan beside its prompts: size of the round, training, and images of earlier rounds.

They are offered to models that call tools natively, each where it has an effect, and within bounds
that follow from the settings.
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

# Steps and learning rate of a training, as factors of the settings.
STEPS, RATE = 4, 10
_SHARES = "what the round is for: least shares by slice"
# Share of generated images: photographs and images both count.
SHARES = (0.05, 0.95)
GUIDANCE = (0.0, 20.0)
# Rounds that a schedule holds, as an observation looks back on.
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
    """Return the least and the highest value of each lever that has an effect in a round.

    Of `later` they are the rounds that it holds, and their images with those of the round itself.

    Args:
        settings: Of the session.
        preferences: Those that hold; sizes of rounds that a person says are no levers.
        past: The rounds before.
        number: Of the round.
        spare: Images that earlier plans have left.
        accepts_guidance: Whether the generator follows a prompt's guidance.
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
    """Return what is wrong with levers, with numbers; an empty list if nothing is.

    n_images: of the round, by its schedule.
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
            continue  # counted with the rounds after
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
    """Return what is wrong with a schedule, with numbers.

    Args:
        sizes: Images of its rounds, and of those that share the images with them.
        later: Its rounds.
        n_rounds: How many rounds there are to schedule.
        left: Images that may be made in all.
        vocabulary: Of the target.
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
        levers: Of the plan.
        before: Changes of the training before, whose weights of prompts hold on.
        past: The rounds before.
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
    """Return the JSON schema of the levers that a round has.

    Args:
        bounds: See `lever_bounds`.
        values: Schema of attribute values.
        rounds: Numbers of the rounds before that have images.
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
    """Return the levers that are given."""
    values = {name: getattr(levers, name) for name in Levers.model_fields}
    return {name: value for name, value in values.items() if value not in (None, ())}
