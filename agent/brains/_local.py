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


class LocalBrain(BaseChatModel):
    """A chat model whose answer is a function of the messages and of the legal tools' names."""

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
        return self.bind(legal=[t.name for t in tools if isinstance(t, BaseTool)], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        message = self.answer(messages, kwargs.get("legal", []))
        return ChatResult(generations=[ChatGeneration(message=message)])
