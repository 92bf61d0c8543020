"""Access control of the web interface: every request needs the token, none may be cross-site.

`Guard` wraps the whole application, so that no route is left unprotected.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from html import escape
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from memory.addresses import is_local

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Scripts, styles and pictures are loaded from this server only; the page cannot be framed.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # The address may contain the token.
    (b"referrer-policy", b"same-origin"),
)
_SIGN_IN = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Token needed</title><link rel="icon" href="data:,">
<h1>This page needs its token</h1>
<p>Open the address that <code>shaping web</code> has printed, or enter the token here.</p>
<form action="/"><label>Token <input name="token" type="password" required autofocus></label>%s
<button>Open</button></form></html>"""
_FIELD = '<input type="hidden" name="%s" value="%s">'
_SIGNED_IN = '<!doctype html><title>Shaping</title><link rel="icon" href="data:,">'


class Guard:
    """ASGI middleware that rejects requests: 401 without the token, 403 from another origin.

    Args:
        app: The wrapped application.
        token: Token that a request has to carry as `?token=`, cookie or bearer.
        is_local: Whether the server listens on loopback only. Then the Host header must name a
            loopback address, which also rejects sites that resolve to this machine (DNS rebinding).
    """

    def __init__(self, app: Application, token: str, is_local: bool) -> None:
        self._app, self._token, self._is_local = app, token, is_local
        # Cookies ignore ports: two servers on a machine must not overwrite each other's.
        self._cookie = f"shaping-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or reject it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope)
        answer: Response
        if problem := _foreign(request, self._is_local):
            answer = PlainTextResponse(problem, 403)
        elif any(self._matches(text) for text in self._credentials(request)):
            await self._app(scope, receive, _with_headers(send))
            return
        elif request.method == "GET" and self._matches(request.query_params.get("token", "")):
            answer = self._sign_in(request)
        else:
            asked = (pair for pair in request.query_params.multi_items() if pair[0] != "token")
            fields = "".join(_FIELD % (escape(name), escape(value)) for name, value in asked)
            answer = HTMLResponse(_SIGN_IN % fields, 401)
        answer.headers["cache-control"] = "no-store"
        await answer(scope, receive, _with_headers(send))

    def _credentials(self, request: Request) -> list[str]:
        """Return the tokens that a request carries as bearer or cookie."""
        authorizations = request.headers.getlist("authorization")
        given = [text[7:] for text in authorizations if text[:7].lower() == "bearer "]
        return [*given, request.cookies.get(self._cookie, "")]

    def _matches(self, text: str) -> bool:
        """Compare a text with the token in constant time."""
        return hmac.compare_digest(text.encode(), self._token.encode())

    def _sign_in(self, request: Request) -> Response:
        """Set the cookie, and redirect to the address without the token."""
        answer = HTMLResponse(_SIGNED_IN)
        is_secure = request.url.scheme == "https"
        answer.set_cookie(
            self._cookie, self._token, httponly=True, samesite="strict", secure=is_secure
        )
        rest = urlencode(
            [pair for pair in request.query_params.multi_items() if pair[0] != "token"]
        )
        # A browser would read "//host" as another site.
        place = f"/{quote(request.scope['path']).lstrip('/')}" + (f"?{rest}" if rest else "")
        # With a 3xx redirect after a link from another site, browsers omit the strict cookie.
        answer.headers["refresh"] = f"0;url={place}"
        return answer


def _foreign(request: Request, is_local_page: bool) -> str:
    """Return why a request does not come from the page itself; "": it does."""
    headers = request.headers
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        return "A request needs exactly one Host header."
    host = hosts[0].lower()
    if is_local_page and not is_local(re.sub(r":\d+$", "", host)):
        return "This page is served to this machine only: use localhost, or an SSH tunnel."
    is_foreign = any(o.lower().partition("://")[2] != host for o in headers.getlist("origin"))
    is_visit = "navigate" in headers.getlist("sec-fetch-mode")
    sites = {"cross-site", "same-site"} & set(headers.getlist("sec-fetch-site"))
    if is_foreign or (sites and not is_visit):
        return "The request comes from a page of another site."
    return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending
