"""Base class of brains behind a server: two modes of tool calls, retries, and clear errors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeGuard
from uuid import uuid4

import httpx
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelConnectionError,
    ModelTimeoutError,
)
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, ValidationError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from agent.brains.actions import (
    Json,
    action_schema,
    as_plain_messages,
    parse_action,
    storable,
    unpacked,
)
from agent.brains.failures import advice, reason_of
from agent.brains.spending import PICTURE_TOKENS
from agent.config.sections import LLMSettings
from memory.errors import BrainError

MAX_CALLS = 8
MAX_CONTENT = 4_000
# If a server asks for a longer pause, the call fails at once, so that the fallback can decide.
MAX_PAUSE_S = 60.0

_MAX_REASON = 300
# Exceptions of LangChain's clients when the answer of a server does not follow the protocol.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError)
_KEY_LIKE = re.compile(r"\bsk-[\w*.-]{4,}|(?i:\bbearer\s+)[^\s'\",}]+")


@dataclass(frozen=True)
class Server:
    """The server of a brain: its URL, its errors and advice for them.

    Attributes:
        url: URL of the server, without credentials.
        errors: Exceptions of its client.
        when_unreachable: Advice to the user, one sentence, as the next two.
        when_forbidden: If access is denied.
        when_unknown: If the model does not exist.
        hint: What may be wrong with the URL, "" for nothing.
        secrets: Keys that must not appear in any text.
    """

    url: str
    errors: tuple[type[Exception], ...]
    when_unreachable: str
    when_forbidden: str
    when_unknown: str
    hint: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)


class CallError(BrainError):
    """A failed call.

    Attributes:
        reached: Whether the server processed the request, so that another request may work.
        again: Whether the same request may work after a pause.
        pause_s: Pause requested by the server in seconds, or None.
        refused: Reason for which the server rejects the request, or "".
    """

    def __init__(
        self,
        message: str,
        *,
        reached: bool = False,
        again: bool = False,
        pause_s: float | None = None,
        refused: str = "",
    ) -> None:
        super().__init__(message)
        self.reached = reached
        self.again = again
        self.pause_s = pause_s
        self.refused = refused


class RemoteModel(BaseChatModel):
    """A chat model behind a server, whose answers are guaranteed to be well-formed.

    Subclasses implement the differences between protocols.

    Every answer has at most MAX_CALLS tool calls with new ids and plain JSON arguments, at most
    MAX_CONTENT characters of text, and usage_metadata. If the server does not count tokens, they
    are estimated as a quarter of the characters, and response_metadata["usage_estimated"] is True.
    An answer that is empty, a refusal or malformed has no tool calls, and its text contains what
    was received. Raises BrainError, after `llm.tries` tries if a retry may help; its message says
    what to do and contains no key.
    """

    chat: BaseChatModel = Field(repr=False, exclude=True)
    mode: Literal["native", "json"] = Field(description="tool calls of the model, or JSON actions")
    llm: LLMSettings
    model: str
    server: Server = Field(repr=False, exclude=True)

    def json_arguments(self, schema: Json) -> Json:
        """Return the arguments of a call that make the server's answer follow a JSON schema."""
        raise NotImplementedError

    def adapted(self, refused: str) -> BaseChatModel | None:
        """Return a client without the parameter that the server rejects, or None."""
        return None

    @property
    def _llm_type(self) -> str:
        return f"remote-{self.chat._llm_type}"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "mode": self.mode}

    def with_mode(self, mode: Literal["native", "json"]) -> RemoteModel:
        """Return a copy with another mode of tool calls."""
        return self.model_copy(update={"mode": mode})

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model; `tool_choice` is only used for native tool calls."""
        if tool_choice is not None:
            kwargs["tool_choice"] = tool_choice
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        tools = kwargs.pop("tools", [])
        by_action = self.mode == "json" and bool(tools)
        # Data besides the content must not be sent: pictures are referred to here, and rounds of
        # earlier versions contain more.
        sent = [m.model_copy(update={"additional_kwargs": {}}) for m in messages]
        if by_action:
            kwargs.pop("tool_choice", None)
            sent = as_plain_messages(sent, tools)
            kwargs |= self.json_arguments(action_schema(tools))
        retrying = Retrying(
            stop=stop_after_attempt(self.llm.tries),
            wait=self._pause,
            retry=retry_if_exception(lambda error: isinstance(error, CallError) and error.again),
            before_sleep=run_manager.on_retry if run_manager else None,
            reraise=True,
        )
        while True:
            chat: Runnable[LanguageModelInput, AIMessage] = self.chat
            arguments = kwargs
            if tools and not by_action:
                chat, arguments = self.chat.bind_tools(tools, **kwargs), {}
            try:
                answer = retrying(self._call, chat, sent, {**arguments, "stop": stop})
                break
            except CallError as error:
                other = self.adapted(error.refused)
                if other is None:
                    raise
                self.chat = other
        message = self._settle(answer, by_action, sent, tools)
        if retries := retrying.statistics["attempt_number"] - 1:
            message.response_metadata["retries"] = retries
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _call(
        self,
        chat: Runnable[LanguageModelInput, AIMessage],
        messages: list[BaseMessage],
        arguments: dict[str, Any],
    ) -> AIMessage:
        failures: tuple[type[Exception], ...] = (*self.server.errors, *_MALFORMED)
        try:
            answer = chat.invoke(messages, **arguments)
        except ValidationError as error:
            # E.g. arguments that are not an object: a mistake of the model, returned as its answer.
            given = json.dumps([e["input"] for e in error.errors()], default=repr)
            return AIMessage(content=given)
        except failures as error:
            # Not chained to the client's exception, which may contain a key.
            raise self._explain(error) from None
        if not isinstance(answer, AIMessage):
            raise self._explain(TypeError(f"it answered as {answer.type!r}"))
        return answer

    def _settle(
        self, answer: AIMessage, by_action: bool, sent: Sequence[BaseMessage], tools: list[Json]
    ) -> AIMessage:
        """Convert an answer to the form that the class guarantees."""
        text = "\n".join(_texts(answer))
        offered = {tool["function"]["name"]: tool for tool in tools}
        finish = answer.response_metadata
        metadata: dict[str, Any] = {
            "model_name": self.model,
            "finish_reason": finish.get("finish_reason") or finish.get("done_reason"),
        }
        calls = answer.tool_calls
        if by_action or (tools and not calls):
            # Servers that do not recognise a call return it as text.
            action = parse_action(text, None if by_action else offered)
            calls = [action] if action else []
            text = "" if action else text
            metadata |= {"call_in_text": True} if action and not by_action else {}
        usage = answer.usage_metadata
        if not _is_usage(usage):
            usage = _estimate(sent, tools, text, calls)
            metadata["usage_estimated"] = True
        return AIMessage(
            content=storable(text)[:MAX_CONTENT],
            tool_calls=[
                {
                    # Servers reject conversations that contain names with other characters.
                    "name": re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "_",
                    "args": unpacked(storable(call["args"]), offered.get(name)),
                    # New ids, because some servers restart numbering in every answer; nine letters
                    # or digits, because others accept no other form.
                    "id": uuid4().hex[:9],
                }
                for call in calls[:MAX_CALLS]
                for name in [_offered_name(call["name"], offered)]
            ],
            usage_metadata=usage,
            response_metadata=metadata,
        )

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, CallError) and error.pause_s is not None:
            return error.pause_s
        grow = wait_exponential(multiplier=self.llm.pause_s, max=MAX_PAUSE_S)
        return grow(state) + wait_random(0, self.llm.pause_s)(state)

    def _explain(self, error: Exception) -> CallError:
        """Convert an exception to a `CallError` that explains it and says what to do."""
        server, status = self.server, getattr(error, "status_code", None)
        who = f"The model {self.model!r} at {server.url}"
        tried = f"({self.llm.tries} {'try' if self.llm.tries == 1 else 'tries'})"
        reason = self._redact(reason_of(error))
        if isinstance(error, ModelTimeoutError | httpx.TimeoutException):
            return CallError(
                f"{who} gave no answer in {self.llm.timeout_s:g} s {tried}. Raise llm.timeout_s, "
                "or choose a faster model.",
                again=True,
            )
        if isinstance(error, ModelConnectionError | httpx.HTTPError | OSError):
            return CallError(
                f"{who} cannot be reached {tried}: {reason}. "
                f"{advice(error, server.url) or server.when_unreachable}",
                again=True,
            )
        if status in (401, 403):
            return CallError(f"{who} denies access: {reason}. {server.when_forbidden}")
        if status == 404:
            return CallError(f"{who} was not found: {reason}. {server.hint or server.when_unknown}")
        if getattr(error, "code", None) == "insufficient_quota":
            return CallError(f"{who} has no quota left: {reason}. Add some, or use another key.")
        pause_s = _retry_after(error)
        if pause_s is not None and pause_s > MAX_PAUSE_S:
            return CallError(
                f"{who} accepts no request for {pause_s:.0f} s: {reason}. Wait, or choose another "
                "model."
            )
        if status == 429:
            return CallError(
                f"{who} limits the rate of requests {tried}: {reason}. Wait, or raise llm.pause_s "
                "and llm.tries.",
                again=True,
                pause_s=pause_s,
            )
        if isinstance(error, ContextOverflowError) or (
            status in (400, 413) and re.search(r"context|too (long|large)", reason)
        ):
            return CallError(
                f"{who} rejects the prompt, context length exceeded: {reason}. Lower "
                "llm.context_tokens."
            )
        if isinstance(status, int) and 400 <= status < 500 and status not in (408, 409, 425):
            return CallError(
                f"{who} refuses the request: {reason}. Choose another model or llm.mode.",
                reached=True,
                refused=reason,
            )
        is_odd = isinstance(error, _MALFORMED) and status is None
        odd = server.hint if is_odd else ""
        reason = f"its answer does not follow the protocol ({reason})" if is_odd else reason
        return CallError(
            f"{who} failed {tried}: {reason}. "
            f"{odd or 'Check the server, or choose another model.'}",
            reached=True,
            again=True,
            pause_s=pause_s,
        )

    def _redact(self, text: str) -> str:
        for secret in self.server.secrets:
            text = text.replace(secret, "[key]")
        text = " ".join(_KEY_LIKE.sub("[key]", text).split())
        return text[:_MAX_REASON].rstrip(".")


def _offered_name(name: str, offered: Collection[str]) -> str:
    """Return the offered tool that a name refers to, e.g. by "functions.NAME", or else the name."""
    bare = name.strip().rpartition(".")[2]
    return bare if bare in offered else name


def _texts(answer: AIMessage) -> Iterator[str]:
    """Yield the texts of an answer: content, refusal, and calls that could not be parsed."""
    if answer.text:
        yield str(answer.text)
    if refusal := answer.additional_kwargs.get("refusal"):
        yield str(refusal)
    for call in answer.invalid_tool_calls:
        yield f"{call['name']}({call['args']})"


def _is_usage(usage: UsageMetadata | None) -> TypeGuard[UsageMetadata]:
    """Return whether the token counts of a server are complete and valid."""
    if not usage:
        return False
    counts: list[object] = [usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]]
    return all(isinstance(n, int) and n >= 0 for n in counts) and usage["total_tokens"] > 0


def _estimate(
    sent: Sequence[BaseMessage], tools: list[Json], text: str, calls: Sequence[Any]
) -> UsageMetadata:
    asked = sum(len(m.text) for m in sent) + len(json.dumps(tools))
    answered = len(text) + len(json.dumps(list(calls)))
    contents = [block for m in sent if isinstance(m.content, list) for block in m.content]
    pictures = [b for b in contents if isinstance(b, dict) and b["type"] == "image"]
    n_in, n_out = math.ceil(asked / 4), math.ceil(answered / 4)
    n_in += PICTURE_TOKENS * len(pictures)
    return UsageMetadata(input_tokens=n_in, output_tokens=n_out, total_tokens=n_in + n_out)


def _retry_after(error: Exception) -> float | None:
    """Return the seconds of a Retry-After header, given as seconds or as a date, or None."""
    # Ollama's client keeps the response only in the exception that it replaces.
    response = getattr(error, "response", None) or getattr(error.__context__, "response", None)
    given = response.headers.get("retry-after", "") if response is not None else ""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", given):
        return float(given)
    try:
        date = parsedate_to_datetime(given)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
