"""Chat commands that control a session: budget, pause, continue, stop, undo, fork and report."""

from __future__ import annotations

from collections.abc import Callable

from agent.chat.live import LiveSession
from agent.chat.preferences import SCHEDULE
from agent.chat.queries import Queries
from agent.session.limits import HOUR_S
from agent.steering.arguments import number_of, whole_number
from eval.report.blocks import Block, Line, schedule_text
from memory.errors import ToolError

# `/budget NAME VALUE`: setting, parser of the value, reply with the value and the hours spent.
_BUDGETS: dict[str, tuple[str, Callable[[str], float], str]] = {
    "images": ("images_per_round", lambda text: whole_number(text, 100_000), "{} images a round"),
    "total": ("max_images", lambda text: whole_number(text, 10**7), "at most {} images in all"),
    "hours": (
        "max_hours", lambda text: number_of(text, 0.001, 10_000),
        "at most {:g} hours of work in all, of which {:.3g} are spent",
    ),
    "score": (
        "target_score", lambda text: number_of(text, 0, 1),
        "it ends when a round scores {:g} on feedback",
    ),
}  # fmt: skip


class SessionControls:
    """Controls of a live session; each method takes the arguments of its command as text."""

    def __init__(self, live: LiveSession, queries: Queries) -> None:
        self._live, self._queries = live, queries

    def budget(self, text: str) -> list[Block]:
        """Show the spent and remaining budget, or change it."""
        name, _, value = map(str.strip, text.replace("=", " ").strip().partition(" "))
        if not name:
            return self._queries.budget()
        if name == "schedule":
            return self._queries.preferences.schedule(value)
        if name == "rounds" and value:
            return self._rounds(whole_number(value, 100_000))
        if name not in _BUDGETS or not value:
            raise ToolError(
                "Say e.g. /budget rounds 6, /budget images 120 (of each round), /budget total 500 "
                f"(images in all), {SCHEDULE}, /budget hours 2, or /budget score 0.7."
            )
        key, read, meaning = _BUDGETS[name]
        if key == "images_per_round" and (planned := self._queries.schedule()):
            text = schedule_text([*planned.values()])
            raise ToolError(f"Round {min(planned)} on makes {text}; say e.g. {SCHEDULE}.")
        amount = read(value)
        self._live.change_budget(**{key: amount})
        text = meaning.format(amount, self._live.session.control.worked_s / HOUR_S)
        return [Line(f"Understood: {text}, from the next round on.", "good")]

    def _rounds(self, number: int) -> list[Block]:
        done = self._live.session.n_done()
        if number < max(done, 1):
            raise ToolError(f"{done} rounds are done already; say {max(done, 1)} or more.")
        self._live.change_budget(rounds=number)
        rounds = f"{number} round{'s' if number > 1 else ''}"
        return [Line(f"Understood: {rounds} in all, from the next round on.", "good")]

    def pause(self, text: str) -> list[Block]:
        """Pause at the next safe point."""
        state = self._live.progress.state
        if state in ("idle", "finished", "failed"):
            return [Line("Nothing is running; /continue resumes the session.")]
        if state == "paused":
            return [Line("The session is paused; /continue resumes it.")]
        self._live.pause()
        if state == "waiting":
            return [Line("The session already waits for you; its clock is stopped.", "good")]
        return [Line("The session pauses at the next safe point.", "good")]

    def resume(self, text: str) -> list[Block]:
        """Continue the session, for the given number of further rounds if there is one."""
        if text:
            more = whole_number(text, 10_000)
            blocks = self._rounds(self._live.session.n_done() + more)
            self._live.start()
            return blocks
        state = self._live.progress.state
        settings = self._live.session.settings.session
        if state == "finished" and self._live.session.n_done() >= settings.rounds:
            return [Line(f"All {settings.rounds} rounds are done; /budget rounds N adds more.")]
        self._live.start()
        if state == "waiting":
            return [Line("The session waits for you: /approve, /edit or /reject.")]
        return [Line("The session continues.", "good")]

    def stop(self, text: str) -> list[Block]:
        """Stop now, or after this round."""
        if text and text not in ("round", "now"):
            raise ToolError("Say /stop, or /stop round to stop after this round.")
        if self._live.progress.state in ("idle", "finished", "failed"):
            return [Line("Nothing is running; /continue resumes the session.")]
        self._live.stop(after_round=text == "round")
        if text == "round":
            return [Line("The session stops after this round.", "good")]
        later = f"To go on: /continue, or shaping chat {self._live.session.name}"
        return [Line(f"The session stops at the next safe point. {later}", "good")]

    def undo(self, text: str) -> list[Block]:
        """Undo the latest accepted plan, with its images, model and report."""
        plan = self._queries.last_plan()
        if plan is None:
            raise ToolError("There is no accepted plan to undo.")
        if not self._live.undo():
            raise ToolError("An undo is already in progress; repeat the command after it.")
        return [Line(f"Round {plan.round} is taken back at the next safe point.", "good")]

    def fork(self, text: str) -> list[Block]:
        """Create a session that shares the finished rounds."""
        from agent.session.fork import fork

        if not text:
            raise ToolError("Name the new session: /fork NAME")
        session = self._live.session
        done = session.n_done()
        if not done:
            raise ToolError("No round is done yet that a fork could share.")
        name = fork(session.settings.home, session.name, done + 1, text)
        return [Line(f"{name} shares rounds 1 to {done}. Open it: shaping chat {name}", "good")]

    def report(self, text: str) -> list[Block]:
        """Write the HTML report."""
        from agent.autonomous.report import write_report

        if not self._queries.rounds():
            return [Line("There is nothing to report yet.")]
        session = self._live.session
        return [Line(f"Report: {write_report(session.settings.home, session.name)}")]
