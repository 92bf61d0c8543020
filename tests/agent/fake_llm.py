"""A server that plays scripted answers in the protocols of OpenAI and Ollama."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


@dataclass
class FakeLLM:
    """A server on 127.0.0.1 that plays scripted answers in the protocols of OpenAI and Ollama.

    An answer of `answers` is used once, the first one first: {"tool": NAME, "arguments": {...}}
    is a native call where the request offers tools and a JSON action where it does not; "calls"
    are several native ones, each with "id" and "raw" arguments if wanted; {"text": "..."} is
    text. Besides: "finish", "refusal", "usage" (False: none is given), "prompt_tokens", "delay" in
    seconds, "status" with "error" and "headers", "body" (the raw response), "drop" (the connection
    ends). Without an answer `respond` is asked; without it the server says 400. `requests` holds
    "path", "headers" and "body" of each. With `sees` a question without tools about a picture is
    answered by the name of its colour.
    """

    openai_url: str
    ollama_url: str
    key: str
    answers: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    respond: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    sees: bool = False


def pictures_in(body: dict[str, Any]) -> list[bytes]:
    """Return the pictures of a request in either protocol, as files."""
    found: list[str] = []
    for message in body["messages"]:
        content = message.get("content")
        blocks = content if isinstance(content, list) else []
        found += [b["image_url"]["url"] for b in blocks if b["type"] == "image_url"]
        found += message.get("images") or []
    return [base64.b64decode(data.partition("base64,")[2] or data) for data in found]


def _colour(picture: bytes) -> str:
    """Return the name of the colour that a picture has on average."""
    with Image.open(io.BytesIO(picture)) as image:
        mean = image.convert("RGB").resize((1, 1)).tobytes()
    off = {name: sum(map(abs, map(int.__sub__, rgb, mean))) for name, rgb in _RGB.items()}
    return min(off, key=off.__getitem__)


_RGB = {"red": (220, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220), "yellow": (240, 220, 0),
        "black": (0, 0, 0), "white": (255, 255, 255)}  # fmt: skip


@contextmanager
def serve() -> Iterator[FakeLLM]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
            exhausted: dict[str, Any] = {
                "status": 400,
                "error": "the script of the test has run out",
            }
            answer = exhausted
            pictures = pictures_in(body)
            if fake.sees and pictures and not body.get("tools"):
                answer = {"text": f"It is {_colour(pictures[-1])}."}
            elif fake.answers:
                answer = fake.answers.pop(0)
            elif fake.respond:
                answer = fake.respond(body)
            time.sleep(answer.get("delay", 0))
            if answer.get("drop"):
                self.close_connection = True
                return
            status = answer.get("status", 200)
            if "body" in answer:
                data = answer["body"]
            elif status != 200:
                error = answer.get("error", "scripted")
                is_ollama = self.path == "/api/chat"
                data = json.dumps({"error": error if is_ollama else {"message": error}})
            else:
                encode = _as_ollama if self.path == "/api/chat" else _as_openai
                data = json.dumps(encode(answer, body))
                if body.get("stream") and encode is _as_openai:
                    data = _as_events(json.loads(data))
            try:
                self.send_response(status)
                for name, value in answer.get("headers", {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data.encode())))
                self.end_headers()
                self.wfile.write(data.encode())
            except ConnectionError:
                # The client did not wait for a delayed answer.
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    fake = FakeLLM(openai_url=f"{url}/v1", ollama_url=url, key="sk-test-0123456789abcdef")
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _calls(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return answer.get("calls") or ([answer] if "tool" in answer else [])


def _text(answer: dict[str, Any], body: dict[str, Any]) -> str:
    if "tool" in answer and not body.get("tools"):
        return json.dumps({"tool": answer["tool"], "arguments": answer.get("arguments", {})})
    return str(answer.get("text", ""))


def _as_openai(answer: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _text(answer, body)}
    if "refusal" in answer:
        message |= {"content": None, "refusal": answer["refusal"]}
    if body.get("tools") and _calls(answer):
        message["tool_calls"] = [
            {
                "id": call.get("id", "call_0"),
                "type": "function",
                "function": {
                    "name": call["tool"],
                    "arguments": call.get("raw", json.dumps(call.get("arguments", {}))),
                },
            }
            for call in _calls(answer)
        ]
    n_prompt = answer.get("prompt_tokens", 30)
    usage = {"prompt_tokens": n_prompt, "completion_tokens": 12, "total_tokens": n_prompt + 12}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {"index": 0, "message": message, "finish_reason": answer.get("finish", "stop")}
        ],
        **({"usage": usage} if answer.get("usage", True) else {}),
    }


def _as_events(answer: dict[str, Any]) -> str:
    """Return a completion without calls as the events of a stream, in pieces of its text."""
    (choice,) = answer["choices"]
    text = choice["message"]["content"]
    head = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": answer["model"]}
    pieces = [{"role": "assistant", "content": text[i : i + 7]} for i in range(0, len(text), 7)]
    chunks = [{**head, "choices": [{"index": 0, "delta": piece}]} for piece in pieces]
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunks += [{**head, "choices": [last]}, {**head, "choices": [], "usage": answer["usage"]}]
    events = [json.dumps(chunk) for chunk in chunks]
    return "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])


def _as_ollama(answer: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _text(answer, body)}
    if body.get("tools") and _calls(answer):
        message["tool_calls"] = [
            {"function": {"name": call["tool"], "arguments": call.get("arguments", {})}}
            for call in _calls(answer)
        ]
    usage = {"prompt_eval_count": 30, "eval_count": 12}
    return {
        "model": body["model"],
        "created_at": "2025-01-01T00:00:00Z",
        "message": message,
        "done": True,
        "done_reason": answer.get("finish", "stop"),
        **(usage if answer.get("usage", True) else {}),
    }
