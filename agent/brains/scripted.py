"""The scripted brain, which answers from a list; for tests and demonstrations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr

from agent.brains import BrainContext, Mode
from memory.errors import BrainError, SettingsError


class ScriptedModel(BaseChatModel):
    """A chat model that returns the answers of a script in order and fails after the last one.

    An answer is {"tool": NAME, "arguments": {...}} or {"text": "..."}, optionally with "tokens":
    [PROMPT, ANSWER] as its token usage; or {"error": "..."} to raise a BrainError.
    """

    script: list[dict[str, Any]]
    mode: Mode = "native"
    _next: int = PrivateAttr(default=0)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def model(self) -> str:
        """Name of the model in traces."""
        return self._llm_type

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Accept any tools; the script determines which of them are called."""
        return self.bind(**kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer())])

    def _answer(self) -> AIMessage:
        if self._next >= len(self.script):
            raise SettingsError(
                f"The script of the brain has {len(self.script)} answers and the session needs "
                "more. Add answers to it, or run fewer rounds."
            )
        answer = self.script[self._next]
        self._next += 1
        if "error" in answer:
            raise BrainError(answer["error"])
        calls = []
        if "tool" in answer:
            arguments = answer.get("arguments", {})
            calls = [ToolCall(name=answer["tool"], args=arguments, id=f"s{self._next:04d}")]
        n_in, n_out = answer.get("tokens", (0, 0))
        usage = UsageMetadata(input_tokens=n_in, output_tokens=n_out, total_tokens=n_in + n_out)
        return AIMessage(content=answer.get("text", ""), tool_calls=calls, usage_metadata=usage)


def build(argument: str, context: BrainContext) -> ScriptedModel:
    """Build `scripted:FILE`; the file contains a JSON list of answers."""
    try:
        script = json.loads(Path(argument).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"The script {argument!r} cannot be read: {error}.") from error
    if not isinstance(script, list):
        raise SettingsError(f"The script {argument!r} must hold a JSON list of answers.")
    return ScriptedModel(script=script)
