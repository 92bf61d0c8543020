"""Brains behind an OpenAI-compatible server: `openai:MODEL`.

langchain_openai reads OPENAI_API_KEY and OPENAI_BASE_URL from the environment by itself.
"""

from __future__ import annotations

import os
import re

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from openai import OpenAIError
from pydantic import SecretStr

from agent.brains import BrainContext
from agent.brains.actions import Json
from agent.brains.failures import check_scheme
from agent.brains.remote import RemoteModel, Server
from agent.config.sections import LLMSettings
from memory.addresses import is_local, warn_of_plain_key
from memory.errors import SettingsError

_NO_KEY = SecretStr("none")
# The end of a URL that has the paths of the protocol below it, and one that is such a path.
_VERSION = re.compile(r"/(?:v\d\w*|openai)/?$")
_ENDPOINT = re.compile(r"(?:/chat)?/completions$")


class OpenAIModel(RemoteModel):
    """A model behind the protocol of OpenAI."""

    def json_arguments(self, schema: Json) -> Json:
        """Return the schema as the format of the answer."""
        json_schema = {"name": "action", "schema": schema, "strict": False}
        # Not as an argument of its own: LangChain then raises on an answer that was cut off.
        response_format = {"type": "json_schema", "json_schema": json_schema}
        return {"extra_body": {"response_format": response_format}}

    def adapted(self, refused: str) -> BaseChatModel | None:
        """Return the client without what a server refuses, None where that is nothing known.

        Servers of the older protocol know max_tokens alone; some models have one temperature.
        """
        chat = self.chat
        assert isinstance(chat, BaseChatOpenAI)
        if "max_completion_tokens" in refused and isinstance(chat, ChatOpenAI):
            return BaseChatOpenAI(
                model=chat.model_name,
                api_key=chat.openai_api_key,
                base_url=chat.openai_api_base,
                temperature=chat.temperature,
                timeout=chat.request_timeout,
                max_tokens=chat.max_tokens,
                max_retries=0,
            )
        if "temperature" in refused and chat.temperature is not None:
            return chat.model_copy(update={"temperature": None})
        return None


def build(argument: str, context: BrainContext) -> RemoteModel:
    """Build `openai:MODEL`; raises SettingsError without a model, or without a key it needs.

    A server on this machine needs no key.
    """
    if not argument:
        raise SettingsError("The brain 'openai:' names no model. Use openai:MODEL.")
    llm = context.llm
    # White space, as line ends of files, is no part of a key.
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    chat = _chat(argument, llm, SecretStr(key) if key else _NO_KEY)
    client = chat.root_client
    url = client.base_url.copy_with(userinfo=b"")
    is_old = "OPENAI_BASE_URL" not in os.environ and "OPENAI_API_BASE" in os.environ
    variable = "OPENAI_API_BASE" if is_old else "OPENAI_BASE_URL"
    if problem := check_scheme(str(url), variable):
        raise SettingsError(problem)
    if not key and not is_local(url.host):
        raise SettingsError(
            f"The brain 'openai:{argument}' needs a key. Set OPENAI_API_KEY, or set "
            "OPENAI_BASE_URL to a server on this machine, or use policy:audited_failure."
        )
    secrets = {key, client.base_url.password} - {""}
    if secrets:
        warn_of_plain_key(str(url), variable, "OPENAI_API_KEY")
    server = Server(
        url=str(url).rstrip("/"),
        errors=(OpenAIError,),
        when_unreachable="Start the server, or set OPENAI_BASE_URL to where it is.",
        when_forbidden="Set OPENAI_API_KEY to a key that this server accepts for the model.",
        when_unknown="Name a model that the server has, or set OPENAI_BASE_URL to another server.",
        hint="" if _VERSION.search(url.path) else _hint(variable, str(url)),
        secrets=tuple(secrets),
    )
    return OpenAIModel(
        chat=chat,
        mode="json" if llm.mode == "json" else "native",
        llm=llm,
        model=argument,
        server=server,
    )


def _hint(variable: str, url: str) -> str:
    base = _ENDPOINT.sub("", url.rstrip("/"))
    base = base if _VERSION.search(base) else f"{base}/v1"
    return f"The URL of most servers ends with /v1: perhaps {variable}={base}."


def _chat(model: str, llm: LLMSettings, key: SecretStr) -> ChatOpenAI:
    return ChatOpenAI(
        model=model,
        api_key=key,
        temperature=llm.temperature,
        timeout=llm.timeout_s,
        stream_usage=llm.stream,
        max_completion_tokens=llm.answer_tokens,
        # RemoteModel tries again itself; here as well would multiply the tries.
        max_retries=0,
    )
