"""Levers of a plan beside its prompts: size of the round, training, and images of earlier rounds.

They are offered to models that call tools natively, each where it has an effect, and within bounds
that follow from the settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.config.settings import Settings
from agent.loop.validation import LEAST_PROMPTS
from memory.records import Levers, Round
from prompts.vocabulary import Vocabulary

# Steps and learning rate of a training, as factors of the settings.
STEPS, RATE = 4, 10
# Share of generated images: photographs and images both count.
SHARES = (0.05, 0.95)
GUIDANCE = (0.0, 20.0)

Bounds = Mapping[str, tuple[float, float]]
Json = dict[str, Any]


def lever_bounds(
    settings: Settings, past: Sequence[Round], spare: int, accepts_guidance: bool
) -> Bounds:
    """Return the least and the highest value of each lever that has an effect in a round.

    Args:
        settings: Of the session.
        past: The rounds before.
        spare: Images that earlier plans have left.
        accepts_guidance: Whether the generator follows a prompt's guidance.
    """
    n_images, dstm = settings.session.images_per_round, settings.dstm
    most = n_images + (spare if settings.limits.max_images is None else 0)
    bounds: dict[str, tuple[float, float]] = {
        "n_images": (min(LEAST_PROMPTS, n_images), most),
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
    levers: Levers, bounds: Bounds, vocabulary: Vocabulary, past: Sequence[Round]
) -> list[str]:
    """Return what is wrong with levers, with numbers; an empty list if nothing is."""
    problems = []
    for name, value in _values(levers).items():
        if name not in bounds:
            problems.append(f"{name} has no effect in this round: leave it out")
        elif name != "earlier" and not bounds[name][0] <= value <= bounds[name][1]:
            low, high = bounds[name]
            problems.append(f"{name} is {value:g}; it may be {low:g} to {high:g}")
    numbers = [r.number for r in past if r.batch]
    for one in levers.earlier:
        problems += vocabulary.problems(one.where)
        if foreign := sorted(set(one.rounds) - set(numbers)):
            problems.append(f"there are no images of the rounds {foreign}; there are of {numbers}")
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
        else:
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
