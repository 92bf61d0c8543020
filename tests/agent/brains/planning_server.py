"""A server of OpenAI's protocol whose model plans the same in every round, as a process of its own.

It answers what is asked by the next legal tool call and remembers nothing, so it can be killed at
any moment and started again.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agent.loop.state import ADVANCES

MODEL = "planning"


class _Handler(BaseHTTPRequestHandler):
    n_images = 12

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        offered = [tool["function"]["name"] for tool in body.get("tools", [])]
        name = next(name for name in offered if name in ADVANCES)
        data = json.dumps(_completion(name, _arguments(name, self.n_images))).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


def _arguments(name: str, n_images: int) -> dict[str, Any]:
    if name == "propose_plan":
        texts = ("a dark poly cell, with a clear defect", "an intact mono cell")
        prompts = [
            {"text": f"{text}{end}", "count": n_images // 4}
            for text in texts
            for end in ("", ", with low contrast")
        ]
        return {"prompts": prompts, "why": "Both classes."}
    return {"summary": "done"} if name == "finish" else {}


def _completion(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    call = {"name": name, "arguments": json.dumps(arguments)}
    calls = [{"id": "call_0", "type": "function", "function": call}]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42},
    }


class PlanningServer:
    """The server on a free port of this machine, which stays its own after a death."""

    def __init__(self, n_images: int) -> None:
        self._n_images = n_images
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self._pid = 0
        self.start()

    @property
    def url(self) -> str:
        """Where it is, for OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        """Fork the process and wait until it takes connections."""
        self._pid = os.fork()
        if not self._pid:
            _Handler.n_images = self._n_images
            try:
                ThreadingHTTPServer(("127.0.0.1", self._port), _Handler).serve_forever()
            finally:
                os._exit(1)
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """End it as the machine would, in the middle of whatever it does."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
