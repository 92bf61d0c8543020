"""HTML of the web page. All text is escaped and stripped of control characters."""

from __future__ import annotations

import time
from functools import cache
from importlib import resources
from pathlib import Path
from urllib.parse import quote, urlencode

from jinja2 import Environment

from agent.chat.answers import plan_blocks
from agent.config.settings import presets
from agent.session.folder import SessionInfo, list_sessions, memory_of
from agent.steering.preferences import STEERING, active_preferences
from agent.web.pictures import Pictures
from agent.web.registry import HostedSession, SessionRegistry
from agent.web.timeline import steps
from eval.report.blocks import Block, Line, hit_table
from eval.report.session_charts import charts
from eval.report.templates import page_environment
from memory.errors import ShapingError
from memory.records import Record, digest
from prompts.printable import one_line

_N_HITS = 10
# Seconds for which the list of sessions is cached: reading all journals is slow.
_LIST_S = 5.0


class Page:
    """Renders the pages of a registry's sessions; it stores nothing about viewers."""

    def __init__(self, registry: SessionRegistry, pictures: Pictures) -> None:
        self._registry, self._pictures = registry, pictures
        self._drawn: dict[tuple[str, str], tuple[tuple[object, ...], str]] = {}
        self._listed: tuple[float, list[SessionInfo]] = (0.0, [])

    def document(self, name: str) -> str:
        """Return the page of a session, or the list of all sessions for "" or an unknown name."""
        notice = ""
        try:
            if name:
                self._registry.settings(name)
        except ShapingError as error:
            name, notice = "", str(error)
        return (
            _environment()
            .get_template("page.html.j2")
            .render(
                name=name,
                notice=notice,
                home=str(self._registry.home),
                parts=self.parts(name),
                presets=list(presets()),
            )
        )

    def parts(self, name: str) -> dict[str, str]:
        """Return the HTML of all parts of the page that change, by element id."""
        if not name:
            return {"sessions": draw("sessions", self._sessions())}
        try:
            session, snapshot = self._registry.hosted(name), self._registry.snapshot(name)
            entries, past = session.entries if session else None, snapshot.rounds
            labels = self._pictures.labels(name)
        except ShapingError as error:
            return {"head": draw("line", Line(str(error), "error"))}

        def part(macro: str, *values: object) -> str:
            """Render a part, cached while its values are the same objects.

            Parts are requested every second for each viewer and compete with the session for CPU.
            """
            cached = self._drawn.get((name, macro))
            if cached is None or any(a is not b for a, b in zip(cached[0], values, strict=True)):
                cached = self._drawn[name, macro] = (values, draw(macro, *values))
            return cached[1]

        return {
            "head": draw("head", snapshot),
            "controls": draw("controls", snapshot),
            "plan": plan(session, name),
            "chat": part("chat", entries, snapshot.mode, snapshot.name),
            "charts": part("charts", past, name, self._pictures.has_start(name)),
            "timeline": part("timeline", past, name),
            "failures": part("failures", past, name, snapshot.mode),
            "prompts": part("prompts", past, name, bool(labels)),
        }

    def submit(self, name: str, line: str, plan_mark: str) -> str:
        """Execute a line in a session; return the reason if it was refused, else ""."""
        try:
            if line.strip() == "/leave":
                self._registry.release(name)
            else:
                self._registry.open(name).submit(line, plan_mark)
        except ShapingError as error:
            return str(error)
        return ""

    def memory(self, query: str, name: str) -> str:
        """Return the search results for a text in the memory of all sessions."""
        block: Block = Line("Enter what to look for, e.g. dark poly cells.", "error")
        try:
            if query.strip():
                url = self._registry.settings(name).memory.url if name else None
                memory = memory_of(self._registry.home, url=url)
                hits = memory.search(one_line(query, 300), n=_N_HITS)
                block = hit_table(hits) if hits else Line("Nothing is remembered yet.")
        except ShapingError as error:
            block = Line(one_line(str(error)), "error")
        return draw("blocks", [block], name)

    def _sessions(self) -> list[SessionInfo]:
        then, infos = self._listed
        if time.monotonic() - then > _LIST_S or not infos:
            infos = list_sessions(self._registry.home)
            self._listed = (time.monotonic(), infos)
        return infos


def draw(macro: str, *values: object) -> str:
    """Return the HTML of a macro of parts.html.j2."""
    template = _environment().get_template("parts.html.j2")
    return str(getattr(template.module, macro)(*values)).strip()


def plan(session: HostedSession | None, name: str) -> str:
    """Return the pending plan with editable cells; "": no plan is pending."""
    question = session.live.question if session is not None else None
    if session is None or question is None or question.plan is None:
        return ""
    expectation = question.expectation
    seconds = expectation.seconds if expectation else None
    preferences = active_preferences(session.live.session.journal.events(*STEERING))
    return draw(
        "plan",
        question,
        session.plan_mark,
        [b for b in plan_blocks(question, preferences)[:-1] if isinstance(b, Line)],
        _refusal(session),
        session.conversation.vocabulary,
        {p.prompt_id: p.kept_rate for p in expectation.prompts} if expectation else {},
        None if seconds is None else seconds / question.plan.n_images,
    )


def asset(file: str) -> str:
    """Return the text of page.css, with the colours of the charts, or of page.js."""
    text = resources.files("agent.web").joinpath(file).read_text("utf-8")
    if file == "page.css":
        text = resources.files("eval.report").joinpath("charts.css").read_text("utf-8") + text
    return text


def _refusal(session: HostedSession) -> str:
    """Return why the latest line, if it edits the plan, was refused; "": it was not."""
    typed = [entry for entry in session.entries if entry.text][-1:]
    return " ".join(
        block.text
        for entry in typed
        if entry.text.startswith(("/edit", "/add"))
        for block in entry.blocks
        if isinstance(block, Line) and block.style == "error"
    )


@cache
def _environment() -> Environment:
    environment = page_environment("agent.web")
    environment.filters["clean"] = lambda text, limit=None: one_line(str(text), limit)
    environment.globals |= {"charts_of": charts, "steps_of": steps, "picture_url": _picture_url}
    return environment


def _picture_url(of: Record | Path | None, session: str, *path: object) -> str:
    """Return the URL of a picture, with a version that changes with its record or file."""
    version = ""
    if isinstance(of, Record):
        version = digest(of.to_json())[:8]
    elif of is not None and of.exists():
        version = str(of.stat().st_mtime_ns)
    place = "/".join(quote(str(part), safe="") for part in path)
    return f"/pictures/{place}?{urlencode({'session': session, 'v': version})}"
