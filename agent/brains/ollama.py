"""Brains behind an Ollama server: `ollama:MODEL`.

Ollama's client reads OLLAMA_HOST and OLLAMA_API_KEY from the environment.
"""

from __future__ import annotations

import httpx
from langchain_ollama import ChatOllama
from ollama import RequestError, ResponseError

from agent.brains import BrainContext
from agent.brains.actions import Json
from agent.brains.remote import RemoteModel, Server
from memory.addresses import warn_of_plain_key
from memory.errors import SettingsError

_HINT = "OLLAMA_HOST must not contain a path such as /v1: remove everything after the port."


class OllamaModel(RemoteModel):
    """A model behind Ollama's native protocol."""

    def json_arguments(self, schema: Json) -> Json:
        """Return the arguments that set the schema as the format of the answer."""
        return {"format": schema}


def build(argument: str, context: BrainContext) -> RemoteModel:
    """Build `ollama:MODEL`; raises SettingsError if no model is named."""
    if not argument:
        raise SettingsError("The brain 'ollama:' names no model. Use ollama:MODEL.")
    llm = context.llm
    chat = ChatOllama(
        model=argument,
        temperature=llm.temperature,
        num_predict=llm.answer_tokens,
        num_ctx=llm.context_tokens + llm.answer_tokens,
        client_kwargs={"timeout": llm.timeout_s},
    )
    client: httpx.Client = chat._client._client
    key = client.headers.get("authorization", "").removeprefix("Bearer ")
    url = str(client.base_url.copy_with(userinfo=b""))
    secrets = {key, client.base_url.password} - {""}
    if secrets:
        warn_of_plain_key(url, "OLLAMA_HOST", "OLLAMA_API_KEY")
    server = Server(
        url=url.rstrip("/"),
        errors=(RequestError, ResponseError, httpx.HTTPError, OSError),
        when_unreachable="Start it with `ollama serve`, or set OLLAMA_HOST to where it is.",
        when_forbidden="Set OLLAMA_API_KEY to a key that this server accepts.",
        when_unknown=f"Get the model with `ollama pull {argument}`.",
        hint="" if client.base_url.path == "/" else _HINT,
        secrets=tuple(secrets),
    )
    return OllamaModel(
        chat=chat,
        mode="json" if llm.mode == "json" else "native",
        llm=llm,
        model=argument,
        server=server,
    )
