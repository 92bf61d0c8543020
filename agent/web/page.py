"""What the web page shows, as HTML: every text is escaped, no brace reaches Gradio's templates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment

from agent.chat.queries import plan_blocks
from agent.loop.approval import Question
from agent.session.folder import SessionInfo
from agent.steering.preferences import STEERING, active_preferences
from agent.web.registry import Room, Sight
from agent.web.timeline import steps
from eval.report.blocks import Block, Line, Picture
from eval.report.session_charts import charts as draw_charts
from eval.report.templates import page_environment
from memory.records import Batch, Failure, PromptQuality, PromptSpec, Record, Round
from prompts.printable import one_line

_UNOPENED = "Say something, or press the button above. Plain words and slash commands: /help."
_HELD = "What is said to a session that another process has is not known here."


def head(sight: Sight) -> str:
    """Show where a session stands."""
    return _draw("head", sight)


def nothing(home: Path) -> str:
    """Say that there is no session yet."""
    return _draw("nothing", str(home))


def controls(sight: Sight) -> str:
    """Show the buttons that start, hold and end a session."""
    return _draw("controls", sight)


def plan(room: Room | None, name: str) -> str:
    """Show the plan that waits for an answer, each cell to be edited; "" when none does."""
    question = room.live.question if room is not None else None
    if room is None or question is None or question.plan is None:
        return ""
    # A new turn draws the table anew, so that a cell which was refused shows its old value.
    turn, problem = _last_edit(room)
    expectation = question.expectation
    expected = {p.prompt_id: p.kept_rate for p in expectation.prompts} if expectation else {}
    seconds = None
    if expectation and expectation.seconds is not None:
        seconds = expectation.seconds / question.plan.n_images
    vocabulary = room.talk.vocabulary
    return _draw(
        "plan",
        question,
        room.plan_mark,
        problem,
        turn,
        vocabulary,
        expected,
        seconds,
        _about(room, question),
        name,
    )


def chat(room: Room | None, sight: Sight) -> str:
    """Show what was said in a room."""
    empty = _HELD if sight.mode == "elsewhere" else _UNOPENED
    return _draw("chat", room.entries if room else [], sight.name, empty)


def charts(past: Sequence[Round]) -> str:
    """Draw scores and what was asked for by round."""
    return _draw("charts", draw_charts(past))


def timeline(past: Sequence[Round], name: str) -> str:
    """Show round by round what was planned, drawn and reached, and why."""
    return _draw("timeline", steps(past), name)


def failures(sight: Sight) -> str:
    """Show the failures of the last report with their pictures."""
    last = next((r for r in reversed(sight.rounds) if r.failures), None)
    found, number = (last.failures, last.number) if last else ((), 0)
    return _draw("failures", found, number, sight.name, sight.mode != "elsewhere")


def prompts(sight: Sight, has_labels: bool) -> str:
    """Show the first images of every prompt, the latest round first."""
    drawn = [r for r in reversed(sight.rounds) if r.batch and r.plan]
    return _draw("prompts", drawn, sight.name, has_labels)


def sessions(infos: Sequence[SessionInfo], name: str) -> str:
    """List the sessions; the current one is marked."""
    return _draw("sessions", infos, name)


def blocks(shown: Sequence[Block], name: str) -> str:
    """Show blocks of a session."""
    return _draw("blocks", shown, name)


def style() -> str:
    """Return the style sheet of the page."""
    charts_css = resources.files("eval.report").joinpath("charts.css").read_text("utf-8")
    return charts_css + resources.files("agent.web").joinpath("page.css").read_text("utf-8")


def script() -> str:
    """Return what makes the controls of the parts work."""
    return resources.files("agent.web").joinpath("page.js").read_text("utf-8")


def _about(room: Room, question: Question) -> list[Block]:
    """Return what is said of a plan beside its table and the commands of the terminal."""
    shown = plan_blocks(question, active_preferences(room.live.session.journal.events(*STEERING)))
    return [block for block in shown[:-1] if isinstance(block, Line)]


def _last_edit(room: Room) -> tuple[int, str]:
    """Return how often a plan was edited, and what is wrong with the latest edit."""
    edits = [entry for entry in room.entries if entry.said.startswith(("/edit", "/add"))]
    if not edits or edits[-1] is not next(e for e in reversed(room.entries) if e.said):
        return len(edits), ""
    wrong = [b.text for b in edits[-1].blocks if isinstance(b, Line) and b.style == "error"]
    return len(edits), " ".join(wrong)


def _draw(name: str, *given: Any) -> str:
    macro = getattr(_environment().get_template("page.html.j2").module, name)
    # What is in braces would be a template to Gradio's HTML component.
    return str(macro(*given)).replace("{", "&#123;").replace("}", "&#125;").strip()


@cache
def _environment() -> Environment:
    environment = page_environment("agent.web")
    environment.filters |= {
        "clean": lambda text, limit=None: one_line(str(text), limit),
        "source": _shown,
        "place": _failure,
        "strip": _strip,
        "quality": _quality,
    }
    return environment


def _shown(block: Picture, name: str) -> str:
    version = str(block.path.stat().st_mtime_ns) if block.path.exists() else ""
    return _address(f"shown/{quote(block.path.name, safe='')}", name, version)


def _failure(failure: Failure, name: str, number: int) -> str:
    return _address(f"failures/{number}/{quote(failure.id, safe='')}", name, _version(failure))


def _strip(prompt: PromptSpec, name: str, of: Round) -> str:
    assert of.batch is not None  # only rounds with images are shown
    return _address(f"prompts/{of.number}/{quote(prompt.id, safe='')}", name, _version(of.batch))


def _address(path: str, name: str, version: str) -> str:
    return f"/pictures/{path}?{urlencode({'session': name, 'v': version})}"


def _version(record: Record) -> str:
    """Return what changes with a record, so that a browser may keep the picture."""
    return hashlib.sha256(record.model_dump_json().encode()).hexdigest()[:8]


def _quality(batch: Batch, prompt_id: str) -> PromptQuality | None:
    return next((q for q in batch.quality if q.prompt_id == prompt_id), None)
