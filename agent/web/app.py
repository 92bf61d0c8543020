"""The web server: routes and the stream of updates. `agent.web.page` renders the HTML."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel

from agent.config.settings import Settings
from agent.web.access import Guard
from agent.web.page import Page, asset
from agent.web.pictures import Pictures
from agent.web.registry import SessionRegistry
from memory.addresses import is_local
from memory.errors import SettingsError, ShapingError

REFRESH_S = 1.0
# Seconds after which an idle stream sends a comment, so that closed connections are detected.
_KEEPALIVE_S = 15.0
# Parts returned with the answer to a line; the stream sends the others.
_ANSWERED = ("head", "controls", "plan", "chat")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
_MEDIA_TYPES = {"css": "text/css", "js": "text/javascript"}


class ChatLine(BaseModel):
    """A line of the chat; `plan` is the mark of the plan that it refers to, or ""."""

    session: str
    line: str
    plan: str = ""


class NewSession(BaseModel):
    """Request to begin a session of a preset."""

    preset: str


def serve(
    registry: SessionRegistry,
    opened: Settings | None,
    host: str,
    port: int,
    token: str | None,
    say: Callable[[str], None],
) -> None:
    """Serve the page until the process is interrupted, then release its sessions.

    Args:
        registry: Sessions to show.
        opened: Settings of a session to open at once; None: none.
        host: Address to listen on.
        port: Port to listen on; 0: any free port.
        token: Token that requests have to carry; None: a random one, which is printed.
        say: Prints a line.

    Raises:
        SettingsError: The port or the token cannot be used.
    """
    if token is not None and not _TOKEN.fullmatch(token):
        raise SettingsError("A token must have 16 to 128 letters, digits, '-' or '_'.")
    here, secret = is_local(host), token or secrets.token_urlsafe(24)
    listener = _listen(host, port)
    try:
        name = registry.open_as_set(opened) if opened else None
        place = socket.gethostname() if host in ("0.0.0.0", "::") else host
        place = f"[{place}]" if ":" in place else place
        query = [f"session={name}"] if name else []
        query += [] if token else [f"token={secret}"]
        address = f"http://{place}:{listener.getsockname()[1]}/"
        say(f"Open {address}{'?' if query else ''}{'&'.join(query)}")
        if token:
            say("It asks for the token that you have set.")
        if not here:
            say("Anybody with the token can steer. It is not encrypted: prefer an SSH tunnel.")
        say("Ctrl-C ends it; sessions stop at their next safe point and nothing is lost.")
        config = uvicorn.Config(
            application(registry, secret, here),
            # Streams that are closed at shutdown would be logged as errors.
            log_level="critical",
            ws="none",
            timeout_graceful_shutdown=1,
            proxy_headers=False,
        )
        # The server raises SIGTERM again at its end; the sessions must be released before exit.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        registry.close()


def application(registry: SessionRegistry, token: str, is_local: bool) -> Guard:
    """Return the application wrapped in `Guard`, which takes `token` and `is_local`."""
    pictures = Pictures(registry)
    page = Page(registry, pictures)
    changed = asyncio.Condition()
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.get("/")
    def document(session: str = "") -> HTMLResponse:
        return HTMLResponse(page.document(session), headers={"cache-control": "no-store"})

    @app.get("/page.{kind}")
    def static(kind: str) -> Response:
        if kind not in _MEDIA_TYPES:
            return Response(status_code=404)
        headers = {"cache-control": "no-cache"}
        return Response(asset(f"page.{kind}"), headers=headers, media_type=_MEDIA_TYPES[kind])

    @app.get("/events")
    async def events(session: str = "") -> StreamingResponse:
        headers = {"cache-control": "no-store"}
        return StreamingResponse(stream(session), headers=headers, media_type="text/event-stream")

    async def stream(session: str) -> AsyncIterator[str]:
        """Yield the changed parts of a page as server-sent events."""
        shown: dict[str, str] = {}
        idle_s = 0.0
        while True:
            parts = await run_in_threadpool(page.parts, session)
            idle_s += REFRESH_S
            if new := {key: html for key, html in parts.items() if shown.get(key) != html}:
                yield f"data: {json.dumps(new)}\n\n"
                idle_s = 0.0
            elif idle_s >= _KEEPALIVE_S:
                yield ": no news\n\n"
                idle_s = 0.0
            shown = parts
            with suppress(TimeoutError):
                async with changed, asyncio.timeout(REFRESH_S):
                    await changed.wait()

    @app.post("/say")
    async def submit(body: ChatLine) -> dict[str, object]:
        """Execute a line, and wake all streams to send its effects."""
        notice = await run_in_threadpool(page.submit, body.session, body.line, body.plan)
        parts = await run_in_threadpool(page.parts, body.session)
        async with changed:
            changed.notify_all()
        return {"notice": notice, "parts": {key: parts[key] for key in _ANSWERED if key in parts}}

    @app.post("/sessions")
    def begin(body: NewSession) -> dict[str, str]:
        try:
            return {"session": registry.begin(body.preset)}
        except ShapingError as error:
            return {"notice": str(error)}

    @app.get("/memory")
    def memory(query: str, session: str = "") -> HTMLResponse:
        return HTMLResponse(page.memory(query, session))

    @app.get("/pictures/{path:path}")
    def picture(path: str, session: str) -> Response:
        try:
            png = pictures.read(session, path)
        except ShapingError as error:
            return Response(str(error), 404, media_type="text/plain")
        headers = {"cache-control": "private, max-age=3600"}
        return Response(png, headers=headers, media_type="image/png")

    return Guard(app, token, is_local)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            f"The page cannot be served at {host}, port {port}: {error.strerror}. Choose another "
            "with --port or --host."
        ) from error
