"""Access to the web page: a token for everybody, and no request of another site.

`Guard` stands in front of the whole application, so that no route can be forgotten.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Scripts, styles and pictures come from files of this server alone, and nobody frames the page.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # The address may hold the token.
    (b"referrer-policy", b"same-origin"),
)
_HTML, _TEXT = b"text/html; charset=utf-8", b"text/plain; charset=utf-8"
_SIGN_IN = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Token needed</title><link rel="icon" href="data:,">
<h1>This page needs its token</h1>
<p>Open the address that <code>shaping web</code> has printed, or enter the token here.</p>
<form action="/"><label>Token <input name="token" type="password" required autofocus></label>
<button>Open</button></form></html>"""


def is_loopback(host: str) -> bool:
    """Tell whether a name or address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware that refuses strangers: 401 without the token, 403 from another origin.

    Args:
        app: The application behind it.
        token: What a request has to bring as `?token=`, cookie or bearer.
        is_local: Whether the server listens to this machine alone. Then a request must name the
            machine as itself, so that a site whose name resolves to this machine (DNS rebinding)
            is refused as well.
    """

    def __init__(self, app: Application, token: str, is_local: bool) -> None:
        self._app, self._token, self._is_local = app, token, is_local
        # Cookies ignore ports: two servers on a machine must not overwrite each other's.
        self._cookie = f"shaping-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it before the application sees it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif problem := _foreign(scope, self._is_local):
            await _respond(send, 403, problem)
        elif any(self._matches(text) for text in self._credentials(scope)):
            await self._app(scope, receive, _with_headers(send))
        elif scope["method"] == "GET" and self._matches(dict(_query(scope)).get("token", "")):
            await self._sign_in(scope, send)
        else:
            await _respond(send, 401, _SIGN_IN, (b"content-type", _HTML))

    def _credentials(self, scope: Scope) -> list[str]:
        """Return what a request brings as bearer or cookie."""
        given = [t[7:] for t in _header(scope, "authorization") if t[:7].lower() == "bearer "]
        for text in _header(scope, "cookie"):
            try:
                cookie = SimpleCookie(text).get(self._cookie)
            except CookieError:
                continue
            given += [cookie.value] if cookie else []
        return given

    def _matches(self, text: str) -> bool:
        """Compare with the token, in a time that does not depend on where they differ."""
        return hmac.compare_digest(text.encode(), self._token.encode())

    async def _sign_in(self, scope: Scope, send: Send) -> None:
        """Set the cookie, and take the token out of a page's address."""
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict{secure}"
        rest = urlencode([pair for pair in _query(scope) if pair[0] != "token"])
        # A browser takes "//host" for another site.
        place = f"/{quote(scope['path']).lstrip('/')}" + (f"?{rest}" if rest else "")
        # After a redirection of another site's link the browser would not send a strict cookie.
        head = ((b"set-cookie", cookie.encode()), (b"refresh", f"0;url={place}".encode()))
        body = '<!doctype html><title>Shaping</title><link rel="icon" href="data:,">'
        await _respond(send, 200, body, (b"content-type", _HTML), *head)


def _foreign(scope: Scope, is_local: bool) -> str:
    """Return why a request comes from somewhere else than the page itself; "": it does not."""
    hosts = _header(scope, "host")
    if len(hosts) != 1:
        return "A request needs exactly one Host header."
    host = hosts[0].lower()
    if is_local and not is_loopback(re.sub(r":\d+$", "", host)):
        return "This page is served to this machine alone: use localhost, or an SSH tunnel."
    is_foreign = any(o.lower().partition("://")[2] != host for o in _header(scope, "origin"))
    is_visit = "navigate" in _header(scope, "sec-fetch-mode")
    sites = {"cross-site", "same-site"} & set(_header(scope, "sec-fetch-site"))
    if is_foreign or (sites and not is_visit):
        return "The request comes from a page of another site."
    return ""


def _header(scope: Scope, name: str) -> list[str]:
    """Return all values of a header, which may be given several times."""
    return [v.decode("latin-1") for n, v in scope["headers"] if n.lower() == name.encode()]


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending


async def _respond(send: Send, status: int, body: str, *head: tuple[bytes, bytes]) -> None:
    headers = [*(head or ((b"content-type", _TEXT),)), (b"cache-control", b"no-store"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
