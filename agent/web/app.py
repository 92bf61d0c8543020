"""The web page: layout and events. What it shows is in web_page, whom it serves in web_access."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

# Before the first import: nothing is sent to anybody, and no check for updates is made.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response

from agent.config.settings import Settings, presets
from agent.session.folder import memory_of, stored_settings
from agent.web import page
from agent.web.access import Guard, is_loopback
from agent.web.pictures import Pictures
from agent.web.registry import Hall
from eval.report.blocks import Block, Line, hit_table
from memory.errors import SettingsError, ShapingError
from prompts.printable import one_line

REFRESH_S = 1.0
_N_HITS = 10
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,128}")
# Only fonts that the machine has.
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"]
_MONO = ["ui-monospace", "Menlo", "Consolas", "monospace"]
# The parts of the page that follow a session; `Viewer.show` draws them in this order.
_PARTS = ("head", "controls", "plan", "chat", "charts", "timeline", "failures", "prompts")

Seen = Mapping[str, str]


def serve(
    hall: Hall,
    opened: Settings | None,
    host: str,
    port: int,
    token: str | None,
    say: Callable[[str], None],
) -> None:
    """Serve the page until the process is interrupted, then let go of its sessions.

    opened: settings of the session to open at once; port: 0 for any free one; token: made up when
    none is given and the host is reached from elsewhere. Raises SettingsError for a port or a token
    that cannot be used.
    """
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    if token is not None and not _TOKEN.fullmatch(token):
        raise SettingsError("--token must have 16 to 128 letters, digits, '-' or '_'.")
    listening = _listen(host, port)
    try:
        name = hall.begin_with(opened) if opened else None
        place = socket.gethostname() if host in ("0.0.0.0", "::") else host
        place = f"[{place}]" if ":" in place else place
        query = "&".join(
            part
            for part in (f"session={name}" if name else "", f"token={token}" if token else "")
            if part
        )
        address = f"http://{place}:{listening.getsockname()[1]}/{'?' if query else ''}{query}"
        say(f"Open {address}")
        if token is not None and not is_loopback(host):
            say("Whoever has this address can steer. It is not encrypted: a tunnel is better.")
        say("Ctrl-C ends it; sessions stop at their next safe point and nothing is lost.")
        config = uvicorn.Config(
            application(hall, token),
            # Requests that are cut off at the end are no errors.
            log_level="critical",
            ws="none",
            timeout_graceful_shutdown=1,
            proxy_headers=False,
        )
        # The server raises a signal again once it has ended: not to die before the sessions have.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
        hall.close()


def application(hall: Hall, token: str | None) -> Guard:
    """Return the whole application behind its guard; token None: for this machine alone."""
    pictures = Pictures(hall)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    def png(read: Callable[[], bytes]) -> Response:
        try:
            data = read()
        except ShapingError as error:
            return Response(str(error), 404, media_type="text/plain")
        return Response(data, headers={"cache-control": "private, max-age=3600"}, media_type=_PNG)

    @app.get("/pictures/shown/{file}")
    def shown(file: str, session: str) -> Response:
        return png(lambda: pictures.shown(session, file))

    @app.get("/pictures/failures/{number}/{failure}")
    def failure(number: int, failure: str, session: str) -> Response:
        return png(lambda: pictures.failure(session, number, failure))

    @app.get("/pictures/prompts/{number}/{prompt}")
    def prompt(number: int, prompt: str, session: str) -> Response:
        return png(lambda: pictures.prompt(session, number, prompt))

    @app.get("/pictures/legend")
    def legend(session: str) -> Response:
        return png(lambda: pictures.legend(session))

    gr.mount_gradio_app(
        app,
        _layout(Viewer(hall, pictures)),
        path="/",
        footer_links=[],
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=_FONTS, font_mono=_MONO),
        css=page.style(),
    )
    return Guard(app, token)


_PNG = "image/png"


class Viewer:
    """What one look at the page is answered with; it keeps nothing of who looks."""

    def __init__(self, hall: Hall, pictures: Pictures) -> None:
        self._hall, self._pictures = hall, pictures
        self._known: dict[tuple[str, str], tuple[tuple[object, ...], str]] = {}

    def arrive(self, request: gr.Request) -> list[Any]:
        """Return the session that the address names, or the latest, and its parts."""
        name = str(request.query_params.get("session", ""))
        known = [info.name for info in self._hall.sessions()]
        notice = ""
        if name and name not in known:
            notice = f"There is no session {one_line(name, 70)!r}."
        if name not in known:
            name = known[0] if known else ""
        return [name, self._list(name), _say(notice, name), *self.show(name, {})]

    def show(self, name: str, seen: Seen) -> list[Any]:
        """Return what this viewer has seen now, and those parts that have changed since."""
        parts = self._parts(name)
        changed = [gr.skip() if parts[key] == seen.get(key) else parts[key] for key in _PARTS]
        return [parts, *changed]

    def say(self, line: str, name: str, seen: Seen, plan: str = "") -> list[Any]:
        """Say a line in a session, about a plan of that mark, and show what came of it."""
        notice = ""
        try:
            if not name:
                notice = "Begin a session first."
            elif line.strip() == "/leave":
                self._hall.leave(name)
            else:
                self._hall.enter(name).say(line, plan)
        except ShapingError as error:
            notice = str(error)
        return [_say(notice, name), *self.show(name, seen)]

    def press(self, name: str, seen: Seen, event: gr.EventData) -> list[Any]:
        """Say the line that stands behind a control."""
        said = event._data
        return self.say(str(said.get("line", "")), name, seen, str(said.get("plan", "")))

    def type(self, line: str, name: str, seen: Seen) -> list[Any]:
        """Say a line and empty its field."""
        return ["", *self.say(line, name, seen)]

    def recall(self, query: str, name: str) -> str:
        """Return what the memory of all sessions has on a text."""
        if not query.strip():
            return _say("Say what to look for, e.g. dark poly cells.", name)
        try:
            home = self._hall.home
            url = stored_settings(home, name).memory.url if name else None
            hits = memory_of(home, url=url).search(one_line(query, 300), n=_N_HITS)
        except ShapingError as error:
            return _say(str(error), name)
        found: list[Block] = [hit_table(hits) if hits else Line("Nothing is remembered yet.")]
        return page.blocks(found, name)

    def begin(self, preset: str) -> tuple[str, str]:
        """Begin a session of a preset; return its name, or "" and why not."""
        try:
            return self._hall.begin(preset), ""
        except ShapingError as error:
            return "", _say(str(error), "")

    def listed(self, name: str) -> str:
        """Return the list of sessions as it is now."""
        return self._list(name)

    def _list(self, name: str) -> str:
        return page.sessions(self._hall.sessions(), name)

    def _parts(self, name: str) -> dict[str, str]:
        if not name:
            return dict.fromkeys(_PARTS, "") | {"head": page.nothing(self._hall.home)}
        try:
            room, sight = self._hall.room(name), self._hall.look(name)
            entries, past = room.entries if room else None, sight.rounds
            draw = partial(self._drawn, name)
            return {
                "head": page.head(sight),
                "controls": page.controls(sight),
                "plan": page.plan(room, name),
                "chat": draw("chat", lambda: page.chat(room, sight), entries, sight.mode),
                "charts": draw("charts", lambda: page.charts(past), past),
                "timeline": draw("timeline", lambda: page.timeline(past, name), past),
                "failures": draw("failures", lambda: page.failures(sight), past, sight.mode),
                "prompts": draw(
                    "prompts",
                    lambda: page.prompts(sight, bool(self._pictures.labels(name))),
                    past,
                ),
            }
        except ShapingError as error:
            return dict.fromkeys(_PARTS, "") | {"head": _say(str(error), name)}

    def _drawn(self, name: str, part: str, draw: Callable[[], str], *of: object) -> str:
        """Return a part, drawn again only when what it is drawn of is another object.

        All viewers look every second, beside a session that wants the processor.
        """
        known = self._known.get((name, part))
        if known is None or any(a is not b for a, b in zip(known[0], of, strict=True)):
            known = self._known[name, part] = (of, draw())
        return known[1]


def _say(text: str, name: str) -> str:
    return page.blocks([Line(one_line(text), "error")], name) if text else ""


def _layout(viewer: Viewer) -> gr.Blocks:
    script = page.script()

    def part(name: str, **options: Any) -> gr.HTML:
        return gr.HTML("", elem_id=name, js_on_load=script, apply_default_css=False, **options)

    with gr.Blocks(title="Shaping session", analytics_enabled=False) as layout:
        name, seen = gr.Textbox(visible=False), gr.State({})
        head, controls, notice = part("head"), part("controls"), part("notice")
        plan = part("plan")
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                chat = part("chat", max_height=560, autoscroll=True)
                line = gr.Textbox(
                    label="Say something",
                    placeholder="more dark poly cells · where does it fail? · /help",
                    elem_id="line",
                    max_lines=4,
                    submit_btn=True,
                )
            with gr.Column(scale=6, min_width=320), gr.Tabs():
                with gr.Tab("Scores"):
                    charts = part("charts")
                with gr.Tab("Timeline"):
                    timeline = part("timeline")
                with gr.Tab("Failures"):
                    failures = part("failures")
                with gr.Tab("Prompts"):
                    prompts = part("prompts")
                with gr.Tab("Memory"):
                    query = gr.Textbox(
                        label="Look for",
                        placeholder="dark poly cells",
                        elem_id="query",
                        submit_btn=True,
                    )
                    found = part("found")
                with gr.Tab("Sessions") as tab:
                    listed = part("sessions")
                    preset = gr.Dropdown(
                        [known.name for known in presets()], value="solar", label="New session of"
                    )
                    begin = gr.Button("Begin", elem_id="begin")
                    refused = part("refused")
        parts = [head, controls, plan, chat, charts, timeline, failures, prompts]
        quiet: dict[str, Any] = {
            "show_progress": "hidden",
            "concurrency_limit": None,
            "api_visibility": "private",
        }
        layout.load(viewer.arrive, None, [name, listed, notice, seen, *parts], **quiet)
        gr.Timer(REFRESH_S).tick(viewer.show, [name, seen], [seen, *parts], **quiet)
        for pressed in (controls, plan, failures, chat):
            pressed.submit(viewer.press, [name, seen], [notice, seen, *parts], **quiet)
        line.submit(viewer.type, [line, name, seen], [line, notice, seen, *parts], **quiet)
        query.submit(viewer.recall, [query, name], found, **quiet)
        tab.select(viewer.listed, name, listed, **quiet)
        begun = gr.Textbox(visible=False)
        begin.click(viewer.begin, preset, [begun, refused], **quiet).then(
            None, begun, None, js="(name) => { if (name) location.search = '?session=' + name; }"
        )
    built: gr.Blocks = layout
    return built


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(
            f"The page cannot be served at {host}, port {port}: {error.strerror}. Choose another "
            "with --port or --host."
        ) from error
