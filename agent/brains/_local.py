"""What brains without a model have in common: they answer at once and know the legal tools."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool


class LocalBrain(BaseChatModel):
    """A chat model whose answer is a function of the messages and of the legal tools' names."""

    @property
    def model(self) -> str:
        """What traces call it."""
        return self._llm_type

    @abstractmethod
    def answer(self, messages: list[BaseMessage], legal: list[str]) -> AIMessage:
        """Return the next message."""

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Remember the names of the tools that are legal."""
        names = [convert_to_openai_tool(tool)["function"]["name"] for tool in tools]
        return self.bind(legal=names, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = self.answer(messages, kwargs.get("legal", []))
        return ChatResult(generations=[ChatGeneration(message=message)])
