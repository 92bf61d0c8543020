"""A chat model of JSON actions that says anything its schema allows: the least a model can do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable

from agent.brains.actions import Json, action_schema


class RandomModel(BaseChatModel):
    """Draws each answer from the JSON schema, as the grammar of a server lets it through."""

    seed: int = 0
    mode: Literal["json"] = "json"

    @property
    def _llm_type(self) -> str:
        return "random"

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=list(tools), **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.seed += 1
        drawn = draw(action_schema(kwargs["tools"]), random.Random(self.seed))
        call = ToolCall(name=drawn["tool"], args=drawn["arguments"], id=f"x{self.seed:08d}")
        message = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=message)])


def draw(schema: Json, rng: random.Random) -> Any:
    """Return a value that a schema of `action_schema` allows."""
    if "anyOf" in schema:
        return draw(rng.choice(schema["anyOf"]), rng)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if schema["type"] == "object":
        parts = schema["properties"].items()
        given = [n for n, _ in parts if n in schema["required"] or rng.random() < 0.5]
        return {name: draw(value, rng) for name, value in parts if name in given}
    if schema["type"] == "array":
        n = rng.randint(schema.get("minItems", 0), schema["maxItems"])
        return [draw(schema["items"], rng) for _ in range(n)]
    return {"string": "because", "integer": 1, "number": 0.5}[schema["type"]]
