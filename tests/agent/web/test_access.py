"""Nobody without the token, and no page of another site, gets anything from the web page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.web.access import Guard, Receive, Scope, Send, is_loopback

TOKEN = "a-token-of-24-characters"
HERE, THERE = "http://127.0.0.1:7860", "http://lab.example:7860"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(app: Any, method: str, url: str, **options: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport) as client:
            return await client.request(method, url, **options)

    return asyncio.run(asked())


def test_with_a_token_nothing_is_served_without_it() -> None:
    guard = Guard(application, TOKEN)
    for url in (f"{THERE}/", f"{HERE}/", f"{THERE}/?token=", f"{THERE}/?token={TOKEN}x"):
        refused = ask(guard, "GET", url)
        assert (refused.status_code, b"inside" in refused.content) == (401, False)
    assert ask(guard, "GET", THERE, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert ask(guard, "GET", THERE, headers={"Cookie": "shaping-1=x; ;="}).status_code == 401
    assert ask(guard, "POST", THERE, headers={"Authorization": f"Bearer {TOKEN}"}).text == "inside"


def test_the_token_of_the_address_becomes_a_cookie() -> None:
    guard = Guard(application, TOKEN)
    first = ask(guard, "GET", f"{THERE}//evil.example/a%20b?session=x%26y&token={TOKEN}")
    assert first.status_code == 303
    assert first.headers["location"] == "/evil.example/a%20b?session=x%26y"
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    pair = cookie.partition(";")[0]
    assert ask(guard, "POST", THERE, headers={"Cookie": pair}).text == "inside"
    other = Guard(application, "another-token-as-long")
    assert ask(other, "GET", THERE, headers={"Cookie": pair}).status_code == 401


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8888"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
    ],
)
def test_other_origins_are_refused_even_with_the_token(
    token: str | None, headers: dict[str, str]
) -> None:
    known = {"Authorization": f"Bearer {TOKEN}", **headers}
    for method in ("GET", "POST", "OPTIONS"):
        assert ask(Guard(application, token), method, HERE, headers=known).status_code == 403


def test_a_tunnel_and_a_link_work_without_a_token() -> None:
    guard = Guard(application, None)
    for url in (HERE, "http://localhost:9000", "http://[::1]:7860"):
        own = {"Origin": url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
        assert ask(guard, "POST", url, headers=own).text == "inside"
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(guard, "GET", HERE, headers=link).text == "inside"
    # A name of a stranger's that points to this machine.
    for host in ("evil.example", "127.0.0.1.evil.example:7860", "localhost.evil.example"):
        assert ask(guard, "GET", f"http://{host}/").status_code == 403


def test_the_browser_is_told_to_load_nothing_from_outside() -> None:
    served = ask(Guard(application, None), "GET", HERE)
    assert "default-src 'self'" in served.headers["content-security-policy"]
    assert "http" not in served.headers["content-security-policy"]
    assert served.headers["x-frame-options"] == "DENY"


def test_websockets_of_strangers_are_closed() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "headers": [(b"host", b"lab")], "query_string": b"", "path": "/"}
    asyncio.run(Guard(application, TOKEN)(scope, receive, send))
    assert sent[0]["type"] == "websocket.close"


def test_which_addresses_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "localhost.example", "")))


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Any, list[str]]:
    """The real application behind a token, and an example of each of its paths."""
    pytest.importorskip("gradio", reason="needs gradio: pip install '.[web]'")

    async def build() -> Guard:
        from agent.web import app
        from agent.web.registry import Hall

        return app.application(Hall(tmp_path, lambda preset: pytest.fail(preset)), TOKEN)

    # Within a loop: without one, Gradio makes loops that it never closes.
    guard = asyncio.run(build())
    return guard, sorted(set(_paths(guard._app)))


@pytest.mark.filterwarnings("ignore")
def test_every_route_is_behind_the_guard(paths: tuple[Any, list[str]]) -> None:
    guard, found = paths
    assert len(found) > 20
    assert "/pictures/legend" in found and "/gradio_api/queue/join" in found
    for path in found:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            assert ask(guard, method, THERE + path).status_code == 401, path
            foreign = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}
            assert ask(guard, method, THERE + path, headers=foreign).status_code == 403, path


@pytest.mark.filterwarnings("ignore")
def test_the_page_is_served_with_the_token(paths: tuple[Any, list[str]]) -> None:
    guard, _ = paths
    known = {"Authorization": f"Bearer {TOKEN}"}
    served = ask(guard, "GET", f"{THERE}/", headers=known)
    assert served.status_code == 200
    assert "Shaping session" in served.text
    for path in ("/docs", "/pictures/shown/..%2F..%2Fetc%2Fpasswd?session=x"):
        assert ask(guard, "GET", THERE + path, headers=known).status_code == 404, path


def _paths(app: Any) -> Iterator[str]:
    for route in app.routes:
        # FastAPI keeps a router that was included as it was.
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        prefix = getattr(route, "path", None) or ""
        if hasattr(inner, "routes"):
            yield from (prefix.rstrip("/") + path for path in _paths(inner))
        elif prefix:
            # Parameters stand in braces.
            yield "/".join("1" if part.startswith("{") else part for part in prefix.split("/"))
