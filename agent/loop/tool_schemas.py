"""The tools as a chat model sees them: JSON schemas tightened to the target and the round.

A model that keeps to the schema plans legally: classes, attribute values and counts are spelt out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from agent.loop.validation import MAX_PROMPTS
from prompts.vocabulary import Vocabulary

# What a small model may write: longer answers are cut off in the middle.
BRIEF_PROMPTS = 4
BRIEF_LENGTH = 200

Json = dict[str, Any]

PULLS = ("entropy 0.05", "loss 0.03", "real 0.1")
_PULL = (
    "Optional: pull the images toward what the model is unsure of, gets wrong, or toward real "
    "photographs that it gets wrong. Harder images, more of them with a wrong label."
)

_ADAPTERS = (
    "Optional: how much adapters of the generator count in these images, 0 is not at all; one that "
    "is left out counts as the settings say."
)


def tool_schemas(
    tools: Sequence[BaseTool],
    vocabulary: Vocabulary,
    n_images: int,
    slices: Sequence[str],
    brief: bool,
    pulls: bool = False,
    adapters: Collection[str] = (),
) -> list[Json]:
    """Return the tools in OpenAI's function format.

    Args:
        tools: The tools that are legal now.
        vocabulary: Classes, attributes and values of the target, which become enums.
        n_images: Budget of the round.
        slices: Keys of the slices that the last report measured.
        brief: For small models: a few prompts by attributes alone, whose counts cannot exceed the
            budget, and hypotheses on measured slices.
        pulls: Whether the DSTM can guide images.
        adapters: Names of the adapters that prompts may weigh.
    """
    schemas = [convert_to_openai_tool(tool) for tool in tools]
    for schema in schemas:
        function = schema["function"]
        if function["name"] == "propose_plan":
            properties = function["parameters"]["properties"]
            _spell_out(properties, vocabulary, n_images, pulls, adapters)
            if brief:
                _shorten(function["parameters"], vocabulary, n_images, slices)
        elif function["name"] == "finish" and brief:
            function["parameters"]["properties"]["summary"]["maxLength"] = BRIEF_LENGTH
    return schemas


def _spell_out(
    properties: Json,
    vocabulary: Vocabulary,
    n_images: int,
    pulls: bool,
    adapters: Collection[str],
) -> None:
    properties["prompts"] |= {"minItems": 1, "maxItems": min(n_images, MAX_PROMPTS)}
    prompt = properties["prompts"]["items"]["properties"]
    prompt["text"]["maxLength"] = 300
    prompt["why"]["maxLength"] = 200
    prompt["count"] |= {"minimum": 1, "maximum": n_images}
    prompt["class_name"] = {"enum": list(vocabulary.classes)}
    del prompt["pull"]
    if pulls:
        prompt["pull"] = {"enum": list(PULLS), "description": _PULL}
    del prompt["adapters"]
    if adapters:
        weight = {"type": "number", "minimum": 0, "maximum": 2}
        prompt["adapters"] = {
            "type": "object",
            "description": _ADAPTERS,
            "properties": dict.fromkeys(adapters, weight),
            "additionalProperties": False,
        }
    prompt["attributes"] = {
        "type": "object",
        "properties": {key: {"enum": list(v)} for key, v in vocabulary.attributes.items()},
        "additionalProperties": False,
    }


def _shorten(
    parameters: Json, vocabulary: Vocabulary, n_images: int, slices: Sequence[str]
) -> None:
    n_prompts = min(n_images, BRIEF_PROMPTS)
    properties = parameters["properties"]
    prompts = properties["prompts"]
    prompts["maxItems"] = n_prompts
    # Text and class could only contradict what the attributes say already.
    prompt = prompts["items"]["properties"]
    key = vocabulary.class_attribute
    prompt["attributes"]["required"] = [key] if key else list(vocabulary.attributes)
    prompt["count"]["maximum"] = n_images // n_prompts
    prompts["items"]["properties"] = {key: prompt[key] for key in ("attributes", "count")}
    prompts["items"]["required"] = ["attributes", "count"]
    properties["why"]["maxLength"] = BRIEF_LENGTH
    parameters["required"] = ["prompts", "why"]
    del properties["hypothesis"]
    if slices:
        # Numbers, because the grammars of servers bound no fractions.
        properties["hypothesis"] = {
            "type": "object",
            "properties": {
                "slice": {"enum": list(slices)},
                "expected_change": {"enum": [0.02, 0.05, 0.1]},
            },
            "required": ["slice", "expected_change"],
        }
        parameters["required"].append("hypothesis")
