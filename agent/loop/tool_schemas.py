"""JSON schemas of the tools for chat models, restricted to the target and the round.

Classes, attribute values and counts are enumerated or bounded, so that arguments that conform to
the schema are mostly legal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from agent.loop.levers import Bounds, lever_schema
from agent.loop.validation import MAX_PROMPTS, PlanRules
from prompts.vocabulary import Vocabulary

# Limits on the answers of small models, whose longer answers are truncated.
BRIEF_SHARES = 6
BRIEF_LENGTH = 200
BRIEF_SLICES = 8
# Enumerated, because the grammars of servers do not bound fractions.
SHARES = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]

Json = dict[str, Any]

PULLS = ("entropy 0.05", "loss 0.03", "real 0.1")
_PULL = (
    "Optional: pull the images toward what the model is unsure of, gets wrong, or toward real "
    "photographs that it gets wrong. Harder images, more of them with a wrong label."
)

_FREE_TEXT = (
    "In your own words: the generator may follow any. The attributes are what you claim that the "
    "images show; a claim counts more than what the words say, and the audit checks the class."
)
_ADAPTERS = (
    "Optional: how much adapters of the generator count in these images, 0 is not at all; one that "
    "is left out counts as the settings say."
)


def tool_schemas(
    tools: Sequence[BaseTool],
    rules: PlanRules,
    slices: Sequence[str],
    brief: bool,
    drawable: Sequence[str] = (),
    n_prompts: int = 1,
    levers: Bounds | None = None,
    rounds: Sequence[int] = (),
) -> list[Json]:
    """Return the tools in OpenAI's function format.

    Args:
        tools: The tools that are legal now.
        rules: Rules for plans, from which enums and limits are derived.
        slices: Keys of the slices measured by the last report, worst first.
        brief: Whether to use the short form for small models: shares in place of prompts, and
            hypotheses on measured slices only.
        drawable: Keys of slices that can be drawn, worst first; used in the short form.
        n_prompts: Minimum number of prompts of a plan.
        levers: Bounds of the round's levers; the short form has no levers.
        rounds: Numbers of the earlier rounds with images.
    """
    schemas, vocabulary = [convert_to_openai_tool(tool) for tool in tools], rules.vocabulary
    for schema in schemas:
        function = schema["function"]
        if function["name"] == "analyse":
            classes = dict.fromkeys(("class", "predicted"), vocabulary.classes)
            columns = {**vocabulary.attributes, **classes}
            properties = function["parameters"]["properties"]
            properties["by"]["items"] = {"enum": list(columns)}
            properties["where"] |= {
                "properties": {name: {"enum": list(values)} for name, values in columns.items()},
                "additionalProperties": False,
            }
        if function["name"] == "look_at":
            function["parameters"]["properties"]["slice"]["enum"] = list(slices)
        if function["name"] == "propose_plan":
            properties = function["parameters"]["properties"]
            _spell_out(properties, rules)
            properties["prompts"]["minItems"] = n_prompts
            properties.pop("levers", None)
            if levers and not brief:
                values = properties["shares"]["items"]["properties"]["where"]
                properties["levers"] = lever_schema(levers, values, rounds)
            if brief:
                _shorten(function["parameters"], slices[:BRIEF_SLICES], drawable[:BRIEF_SLICES])
    return schemas


def _spell_out(properties: Json, rules: PlanRules) -> None:
    """Restrict prompts and shares in the schema of `propose_plan` by the rules."""
    properties["prompts"]["maxItems"] = min(rules.n_images, MAX_PROMPTS)
    prompt = properties["prompts"]["items"]["properties"]
    prompt["text"]["maxLength"] = 300
    if rules.open_vocabulary:
        prompt["text"]["description"] = _FREE_TEXT
    prompt["why"]["maxLength"] = 200
    prompt["count"] |= {"minimum": 1, "maximum": rules.n_images}
    prompt["class_name"] = {"enum": list(rules.vocabulary.classes)}
    del prompt["pull"], prompt["adapters"]
    if rules.no_guidance is None:
        prompt["pull"] = {"enum": list(PULLS), "description": _PULL}
    if rules.adapters:
        weight = {"type": "number", "minimum": 0, "maximum": 2}
        prompt["adapters"] = {
            "type": "object",
            "description": _ADAPTERS,
            "properties": dict.fromkeys(rules.adapters, weight),
            "additionalProperties": False,
        }
    values = attributes_schema(rules.vocabulary)
    prompt["attributes"] = values
    properties["shares"] |= {"maxItems": MAX_PROMPTS}
    share = properties["shares"]["items"]
    share["properties"]["where"] = values
    share["required"] = ["where", "share"]


def attributes_schema(vocabulary: Vocabulary) -> Json:
    """Return the JSON schema of attribute values, which allows what `Vocabulary.problems` allows.

    Attributes that require certain values of others get separate alternatives (anyOf) that include
    these values.
    """
    values = {key: list(known) for key, known in vocabulary.attributes.items()}
    forms = []
    needy = [key for key in values if key in vocabulary.requires]
    for chosen in chain.from_iterable(combinations(needy, n) for n in range(len(needy) + 1)):
        needs: dict[str, list[str]] = {}
        for key in chosen:
            for other, allowed in vocabulary.requires[key].items():
                known = needs.get(other, values.get(other, []))
                needs[other] = [value for value in known if value in allowed]
        properties = {
            key: {"enum": needs.get(key, known)}
            for key, known in values.items()
            if key not in needy or key in chosen
        }
        if all(needs.values()) and needs.keys() <= properties.keys():
            form: Json = {"type": "object", "properties": properties, "additionalProperties": False}
            required = [key for key in properties if key in chosen or key in needs]
            forms.append(form | ({"required": required} if required else {}))
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def _shorten(parameters: Json, slices: Sequence[str], drawable: Sequence[str]) -> None:
    """Reduce the parameters to two alternatives: accept the draft, or give shares."""
    properties = parameters.pop("properties")
    shares = properties["shares"]
    shares |= {"minItems": 1, "maxItems": BRIEF_SHARES}
    shares["items"]["properties"] = {"where": {"enum": list(drawable)}, "share": {"enum": SHARES}}
    given: Json = {"why": properties["why"] | {"maxLength": BRIEF_LENGTH}}
    if slices:
        given["hypothesis"] = {
            "type": "object",
            "properties": {
                "slice": {"enum": list(slices)},
                "expected_change": {"enum": [0.02, 0.05, 0.1]},
            },
            "required": ["slice", "expected_change"],
        }
    accepted = {"draft": {"const": "accept"}, **given}
    by_shares = {"draft": {"enum": ["edit", "replace"]}, "shares": shares, **given}
    parameters["anyOf"] = [
        {"type": "object", "properties": accepted, "required": ["draft", "why"]},
        {"type": "object", "properties": by_shares, "required": ["draft", "shares", "why"]},
    ]
    parameters.pop("required", None)
