"""Nobody without the token, and no page of another site, gets anything from the web page."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.web.access import Guard, Receive, Scope, Send
from memory.addresses import is_local

TOKEN = "a-token-of-24-characters"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
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


@pytest.mark.parametrize(("is_local", "place"), [(True, HERE), (False, THERE)])
def test_nothing_is_served_without_the_token_also_on_loopback(is_local: bool, place: str) -> None:
    guard = Guard(application, TOKEN, is_local)
    for url in (f"{place}/", f"{place}/?token=", f"{place}/?token={TOKEN}x"):
        refused = ask(guard, "GET", url)
        assert (refused.status_code, b"inside" in refused.content) == (401, False)
        assert ask(guard, "POST", url).status_code == 401
    page = ask(guard, "GET", f"{place}/?session=a%22%3E%3Cb&token=wrong").text
    assert 'name="session" value="a&quot;&gt;&lt;b"' in page and "wrong" not in page


def test_a_token_is_a_cookie_or_a_bearer() -> None:
    guard = Guard(application, TOKEN, False)
    assert ask(guard, "GET", THERE, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert ask(guard, "GET", THERE, headers={"Cookie": "shaping-1=x; ;="}).status_code == 401
    assert ask(guard, "POST", THERE, headers=AUTHORIZED).text == "inside"


def test_the_token_of_the_address_becomes_a_cookie() -> None:
    guard = Guard(application, TOKEN, False)
    first = ask(guard, "GET", f"{THERE}//evil.example/a%20b?session=x%26y&token={TOKEN}")
    assert (first.status_code, b"inside" in first.content) == (200, False)
    assert first.headers["refresh"] == "0;url=/evil.example/a%20b?session=x%26y"
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    pair = cookie.partition(";")[0]
    assert ask(guard, "POST", THERE, headers={"Cookie": pair}).text == "inside"
    other = Guard(application, "another-token-as-long", False)
    assert ask(other, "GET", THERE, headers={"Cookie": pair}).status_code == 401


@pytest.mark.parametrize("is_local", [True, False])
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
    is_local: bool, headers: dict[str, str]
) -> None:
    guard = Guard(application, TOKEN, is_local)
    for method in ("GET", "POST", "OPTIONS"):
        assert ask(guard, method, HERE, headers={**AUTHORIZED, **headers}).status_code == 403


def test_a_tunnel_and_a_link_work_on_loopback() -> None:
    guard = Guard(application, TOKEN, True)
    for url in (HERE, "http://localhost:9000", "http://[::1]:7860"):
        script = {"Origin": url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
        assert ask(guard, "POST", url, headers={**AUTHORIZED, **script}).text == "inside"
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(guard, "GET", HERE, headers={**AUTHORIZED, **link}).text == "inside"
    assert ask(guard, "GET", f"{HERE}/?token={TOKEN}", headers=link).status_code == 200
    # A name of a stranger's that points to this machine.
    for host in ("evil.example", "127.0.0.1.evil.example:7860", "localhost.evil.example"):
        assert ask(guard, "GET", f"http://{host}/", headers=AUTHORIZED).status_code == 403


def test_the_browser_is_told_to_load_nothing_from_outside() -> None:
    page = ask(Guard(application, TOKEN, True), "GET", HERE, headers=AUTHORIZED)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy and "unsafe" not in policy
    assert page.headers["x-frame-options"] == "DENY"


def test_websockets_are_closed() -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "headers": [(b"host", b"lab")], "query_string": b"", "path": "/"}
    asyncio.run(Guard(application, TOKEN, False)(scope, receive, send))
    assert sent[0]["type"] == "websocket.close"


def test_which_addresses_only_this_machine_reaches() -> None:
    assert all(map(is_local, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.0.1", "localhost.example", "")))


@pytest.fixture
def guard(tmp_path: Path) -> Any:
    """The real application behind its guard."""
    pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[web]'")
    from agent.web import app
    from agent.web.registry import SessionRegistry

    registry = SessionRegistry(tmp_path, lambda preset: pytest.fail(preset))
    return app.application(registry, TOKEN, is_local=False)


def test_every_route_is_behind_the_guard(guard: Any) -> None:
    routes = [route.path for route in guard._app.routes]
    assert {"/", "/events", "/say", "/sessions", "/memory", "/pictures/{path:path}"} <= set(routes)
    for path in routes:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            assert ask(guard, method, THERE + path).status_code == 401, path
            foreign = {**AUTHORIZED, "Origin": "http://evil.example"}
            assert ask(guard, method, THERE + path, headers=foreign).status_code == 403, path


def test_the_pages_are_served_with_the_token(guard: Any) -> None:
    for query, words in (("", "There are no sessions yet"), ("?session=%3Cb%3E", "&lt;b&gt;")):
        page = ask(guard, "GET", f"{THERE}/{query}", headers=AUTHORIZED)
        assert page.status_code == 200
        assert words in page.text and "<b>" not in page.text
    for file in ("page.css", "page.js"):
        assert ask(guard, "GET", f"{THERE}/{file}", headers=AUTHORIZED).status_code == 200
    line = {"session": "none", "line": "/continue"}
    answer = ask(guard, "POST", f"{THERE}/say", headers=AUTHORIZED, json=line).json()
    assert "'none'" in answer["notice"]
    for path in ("/docs", "/page.py", "/pictures/shown/..%2F..%2Fetc%2Fpasswd?session=x"):
        assert ask(guard, "GET", THERE + path, headers=AUTHORIZED).status_code == 404, path
