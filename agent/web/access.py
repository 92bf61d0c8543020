"""Who may use the web page: people at this machine, or with the token; no other site's page.

`Guard` stands in front of the whole application, so that no route can be forgotten.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Whatever the page names, a browser loads nothing from outside, and nobody frames the page.
# Gradio compiles the scripts of its components when they are shown, hence eval.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # The address may hold the token.
    (b"referrer-policy", b"same-origin"),
)


def is_loopback(host: str) -> bool:
    """Tell whether a name or address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware that refuses strangers: 401 without the token, 403 from another origin.

    token: what a request has to bring as `?token=`, cookie or bearer; None for an address that
    only this machine reaches. There a request must name the machine as itself, so that a page of
    somebody whose name server points here (DNS rebinding) is refused as well.
    """

    def __init__(self, app: Application, token: str | None) -> None:
        self._app, self._token = app, token
        # Cookies do not tell ports apart: two servers on a machine must not overwrite each other's.
        name = hashlib.sha256((token or "").encode()).hexdigest()[:8]
        self._cookie = f"shaping-{name}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it before the application sees it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = _Headers(scope)
        if said := _stranger(headers, only_here=self._token is None):
            await _refuse(scope, send, 403, said)
        elif self._token is None or self._knows(headers):
            await self._app(scope, receive, _with_headers(send))
        elif _same(dict(_query(scope)).get("token", ""), self._token):
            await self._let_in(scope, receive, send)
        else:
            said = "This page needs its token. Open the address that `shaping web` has printed."
            await _refuse(scope, send, 401, said)

    def _knows(self, headers: _Headers) -> bool:
        """Tell whether a request brings the token as a cookie or a bearer."""
        assert self._token is not None  # else everybody knows
        given = [text[7:] for text in headers.all("authorization") if text[:7].lower() == "bearer "]
        for text in headers.all("cookie"):
            try:
                cookie = SimpleCookie(text).get(self._cookie)
            except CookieError:
                continue
            given += [cookie.value] if cookie else []
        return any(_same(text, self._token) for text in given)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand out the cookie, and take the token out of a page's address."""
        assert self._token is not None  # it was just compared
        secure = "; Secure" if scope.get("scheme") in ("https", "wss") else ""
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax{secure}".encode()
        if scope["type"] == "websocket" or scope["method"] != "GET":
            await self._app(scope, receive, _with_headers(send))
            return
        rest = urlencode([pair for pair in _query(scope) if pair[0] != "token"])
        place = quote(scope["path"]) + (f"?{rest}" if rest else "")
        # Of "//host" a browser would make another site.
        place = "/" + place.lstrip("/")
        head = [(b"location", place.encode()), (b"set-cookie", cookie), *_HEADERS]
        await send({"type": "http.response.start", "status": 303, "headers": head})
        await send({"type": "http.response.body", "body": b""})


class _Headers:
    """The headers of a request; one may be given several times, and each time counts."""

    def __init__(self, scope: Scope) -> None:
        self._given: Iterable[tuple[bytes, bytes]] = scope["headers"]

    def all(self, name: str) -> list[str]:
        return [v.decode("latin-1") for n, v in self._given if n.lower() == name.encode()]


def _stranger(headers: _Headers, only_here: bool) -> str:
    """Say why a request comes from somewhere else than the page itself; "" if it does not."""
    hosts = headers.all("host")
    if len(hosts) != 1:
        return "A request needs one host."
    host = hosts[0].lower()
    if only_here and not is_loopback(re.sub(r":\d+$", "", host)):
        return "This page is served to this machine alone: use localhost, or an SSH tunnel."
    if any(origin.lower().partition("://")[2] != host for origin in headers.all("origin")):
        return "The request comes from the page of another site."
    is_visit = "navigate" in headers.all("sec-fetch-mode")
    if {"cross-site", "same-site"} & set(headers.all("sec-fetch-site")) and not is_visit:
        return "The request comes from the page of another site."
    return ""


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _same(given: str, token: str) -> bool:
    """Compare in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode(), token.encode())


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending


async def _refuse(scope: Scope, send: Send, status: int, said: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": said[:120]})
        return
    head = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": said.encode()})
