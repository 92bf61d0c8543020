"""Brains behind an OpenAI-compatible server: `openai:MODEL`.

langchain_openai reads OPENAI_API_KEY and OPENAI_BASE_URL from the environment by itself.
"""

from __future__ import annotations

import os

from langchain_openai import ChatOpenAI
from openai import OpenAIError
from pydantic import SecretStr

from agent.brains import BrainContext
from agent.brains.actions import Json
from agent.brains.remote import RemoteModel, Server
from agent.config.settings import LLMSettings
from memory.addresses import is_local, warn_of_plain_key
from memory.errors import SettingsError

_NO_KEY = SecretStr("none")


def build(argument: str, context: BrainContext) -> RemoteModel:
    """Build `openai:MODEL`; raises SettingsError without a model, or without a key it needs.

    A server on this machine needs no key.
    """
    if not argument:
        raise SettingsError("The brain 'openai:' names no model. Use openai:MODEL.")
    llm = context.llm
    try:
        chat = _chat(argument, llm)
    except OpenAIError:
        chat = _chat(argument, llm, _NO_KEY)
        if not is_local(chat.root_client.base_url.host):
            raise SettingsError(
                f"The brain 'openai:{argument}' needs a key. Set OPENAI_API_KEY, or set "
                "OPENAI_BASE_URL to a server on this machine, or use policy:audited_failure."
            ) from None
    client = chat.root_client
    url = client.base_url.copy_with(userinfo=b"")
    secrets = {str(client.api_key), client.base_url.password} - {"", _NO_KEY.get_secret_value()}
    if secrets:
        is_old = "OPENAI_BASE_URL" not in os.environ and "OPENAI_API_BASE" in os.environ
        variable = "OPENAI_API_BASE" if is_old else "OPENAI_BASE_URL"
        warn_of_plain_key(str(url), variable, "OPENAI_API_KEY")
    server = Server(
        url=str(url).rstrip("/"),
        errors=(OpenAIError,),
        when_unreachable="Start the server, or set OPENAI_BASE_URL to where it is.",
        when_forbidden="Set OPENAI_API_KEY to a key that this server accepts for the model.",
        when_unknown="Name a model that the server has, or set OPENAI_BASE_URL to another server.",
        secrets=tuple(secrets),
    )
    return RemoteModel(
        chat=chat,
        mode="json" if llm.mode == "json" else "native",
        llm=llm,
        model=argument,
        json_arguments=_json_arguments,
        server=server,
    )


def _chat(model: str, llm: LLMSettings, key: SecretStr | None = None) -> ChatOpenAI:
    return ChatOpenAI(
        model=model,
        api_key=key,
        temperature=llm.temperature,
        timeout=llm.timeout_s,
        max_completion_tokens=llm.answer_tokens,
        # RemoteModel tries again itself; here as well would multiply the tries.
        max_retries=0,
    )


def _json_arguments(schema: Json) -> Json:
    json_schema = {"name": "action", "schema": schema, "strict": False}
    # Not as an argument of its own: LangChain then raises on an answer that was cut off.
    return {"extra_body": {"response_format": {"type": "json_schema", "json_schema": json_schema}}}
