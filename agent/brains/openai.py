"""Brains behind an OpenAI-compatible server: `openai:MODEL`.

langchain_openai reads OPENAI_API_KEY and OPENAI_BASE_URL from the environment.
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
# End of a base URL, and end of the URL of an endpoint below it.
_VERSION = re.compile(r"/(?:v\d\w*|openai)/?$")
_ENDPOINT = re.compile(r"(?:/chat)?/completions$")


class OpenAIModel(RemoteModel):
    """A model behind OpenAI's protocol."""

    def json_arguments(self, schema: Json) -> Json:
        """Return the arguments that set the schema as the format of the answer."""
        json_schema = {"name": "action", "schema": schema, "strict": False}
        # In extra_body, because LangChain's own argument raises on truncated answers.
        response_format = {"type": "json_schema", "json_schema": json_schema}
        return {"extra_body": {"response_format": response_format}}

    def adapted(self, refused: str) -> BaseChatModel | None:
        """Return a client without the parameter that a server rejects; None if it is another one.

        Older servers only know max_tokens, and some models only support one temperature.
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
    """Build `openai:MODEL`; raises SettingsError if the model, or a key it needs, is missing.

    A server on the local machine needs no key.
    """
    if not argument:
        raise SettingsError("The brain 'openai:' names no model. Use openai:MODEL.")
    llm = context.llm
    # A key read from a file may end with a line break.
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
    return f"The URL of most servers ends with /v1: try {variable}={base}."


def _chat(model: str, llm: LLMSettings, key: SecretStr) -> ChatOpenAI:
    return ChatOpenAI(
        model=model,
        api_key=key,
        temperature=llm.temperature,
        timeout=llm.timeout_s,
        stream_usage=llm.stream,
        max_completion_tokens=llm.answer_tokens,
        # RemoteModel retries itself; retries of the client would multiply with these.
        max_retries=0,
    )
