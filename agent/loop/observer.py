"""Observers, which show the progress of a session: silent, or on a terminal, a log or a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from agent.loop.approval import ApprovalDecision, ApprovalRequest
from eval.report.text import duration
from memory.records import Plan, Round
from prompts.printable import printable

if TYPE_CHECKING:
    from rich.console import Console


EVERY_S = 30.0
# Seconds until the first line of progress; the interval then doubles up to `every_s`.
FIRST_S = 10.0
# Share of kept images below which a warning is printed.
_FEW_KEPT = 0.2


class Observer:
    """A silent observer; subclasses override the methods whose events they show."""

    interactive = False  # whether a person can be asked
    approves = False  # whether a person approves plans

    def ask(self, question: ApprovalRequest) -> ApprovalDecision:
        """Return a person's answer; only called if `interactive`, or `approves` for plans."""
        raise NotImplementedError

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Show a stage of round `number` while it runs; 0 is the start of a session."""
        yield

    def progress(self, stage: str, unit: str) -> Callable[[int, int], None]:
        """Return a function that is called with the finished amount and the total, in `unit`."""
        return lambda done, total: None

    def token(self, text: str) -> None:
        """Show a piece of a model's answer while it is streamed."""

    def planned(self, plan: Plan) -> None:
        """Show an accepted plan."""

    def round_done(self, current: Round) -> None:
        """Show the outcome of a round."""

    def warn(self, text: str) -> None:
        """Show a warning."""

    def paused(self, why: str) -> None:
        """Show that the session is paused, and why."""
        self.warn(f"Paused: {why}")

    def resumed(self) -> None:
        """Show that the session is resumed."""
        self.warn("Going on.")


class ConsoleObserver(Observer):
    """Prints stages, a progress bar with rate and time left, and a table per round."""

    def __init__(
        self, console: Console, n_rounds: int, interactive: bool = False, audited: bool = True
    ) -> None:
        self.interactive = interactive
        self._audited = audited
        self._console = console
        self._n_rounds = n_rounds
        self._bars = ExitStack()

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Print the stage's name and duration when it ends, unless it took less than 0.05 s."""
        started = time.monotonic()
        where = f"[dim]round {number}/{self._n_rounds}[/dim] " if number else ""
        with self._bars:
            yield
        seconds = time.monotonic() - started
        if seconds >= 0.05:
            self._console.print(f"{where}{name} [green]done[/green] in {seconds:.1f} s")

    def progress(self, stage: str, unit: str) -> Callable[[int, int], None]:
        """Show a progress bar from the first call of the returned function to the stage's end."""
        started = time.monotonic()
        report = self._bars.enter_context(counted(self._console, stage, unit, transient=True))
        if not self._console.is_terminal:
            return report

        def show(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - started, 1e-6)
            report(done, total, f"{rate:.1f} {unit}/s")

        return show

    def token(self, text: str) -> None:
        """Print the piece of text."""
        self._console.print(_plain(text), end="", style="dim", highlight=False, soft_wrap=True)

    def planned(self, plan: Plan) -> None:
        """Print the plan's author, size and reason."""
        hypothesis = plan.hypothesis
        expects = (
            f" Expects {hypothesis.expected_change:+.3f} on '{hypothesis.slice}'."
            if hypothesis
            else ""
        )
        summary = _plain(f"{len(plan.prompts)} prompts. {plan.why}{expects}")
        self._console.print(
            f"[dim]round {plan.round}/{self._n_rounds}[/dim] plan by {_plain(plan.author)}: "
            f"{plan.n_images} images, {summary}",
            highlight=False,
        )

    def round_done(self, current: Round) -> None:
        """Print a table of the round's figures."""
        from eval.report.blocks import Table, report_table
        from eval.report.terminal import draw

        assert current.report  # the stages of the round have ended
        of = f" of {self._n_rounds}" if current.number else ""
        figures = report_table(current.report, f"Round {current.label}{of}", n_slices=1)
        if current.batch is None or not self._audited:
            draw(self._console, [figures])
            return
        made, kept = current.batch.n_made, current.batch.n_kept
        audit = ["share of images kept by the audit", f"{kept / made:.3f}", "", str(made)]
        rows = [*figures.rows, audit]
        draw(self._console, [Table(figures.columns, rows, figures.title, figures.right)])
        if kept < _FEW_KEPT * made:
            self.warn(
                f"The audit keeps {kept} of {made} images; most do not show their prompts: "
                "look at them in the report. An MTDM that was trained briefly needs more steps of "
                "shaping pretrain."
            )

    def ask(self, question: ApprovalRequest) -> ApprovalDecision:
        """Print the question and read the answer."""
        self._console.print("[bold]The agent asks:[/bold]", highlight=False)
        self._console.print(_plain(question.text), highlight=False)
        return ApprovalDecision(verdict="words", text=self._console.input("> ")[:2000])

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._console.print(f"[yellow]Warning:[/yellow] {_plain(text)}", highlight=False)


def _plain(text: str) -> str:
    """Return a model's text with markup escaped and terminal control codes removed."""
    from rich.markup import escape

    return escape(printable(text))


class ProgressReport(Protocol):
    """Shows progress; `figures` are shown beside it."""

    def __call__(self, done: int, total: int, figures: str = "") -> None:
        """Show that `done` of `total` are finished."""


class Lines:
    """Prints progress as lines at growing intervals, up to `every_s`; none if the work is quick."""

    def __init__(
        self,
        say: Callable[[str], None],
        task: str,
        unit: str,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._task, self._unit = say, task, unit
        self._every_s, self._clock = every_s, clock
        self._began = self._printed_at = clock()
        self._wait_s = min(FIRST_S, every_s)
        self._first: int | None = None

    def __call__(self, done: int, total: int, figures: str = "") -> None:
        """Print the progress if a line is due."""
        now = self._clock()
        if self._first is None:
            # Work of an earlier run must not count for the rate.
            self._first, self._began = done, now
        if now - self._printed_at < self._wait_s or done >= total:
            return
        self._printed_at, self._wait_s = now, min(2 * self._wait_s, self._every_s)
        rate = (done - self._first) / max(now - self._began, 1e-6)
        parts = [f"{self._task}: {done} of {total} {self._unit}", *([figures] if figures else [])]
        if rate >= 0.1:
            parts.append(f"{rate:.{0 if rate >= 10 else 1}f} {self._unit}/s")
        if rate > 0:
            parts.append(f"{duration((total - done) / rate)} left")
        self._say(", ".join(parts))


@contextmanager
def counted(
    console: Console, what: str, unit: str, every_s: float = EVERY_S, transient: bool = False
) -> Iterator[ProgressReport]:
    """Show progress by a bar on a terminal and by lines elsewhere; yields the function to call.

    every_s: Longest interval between lines in seconds; transient: Whether the bar is removed at
    the end.
    """
    if not console.is_terminal:

        def say(text: str) -> None:
            console.print(text, markup=False, soft_wrap=True)

        yield Lines(say, what, unit, every_s)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    bar = Progress(
        what,
        BarColumn(),
        MofNCompleteColumn(),
        unit,
        "{task.fields[figures]}",
        TimeRemainingColumn(),
        console=console,
        transient=transient,
    )
    task = bar.add_task(what, total=None, figures="")

    def report(done: int, total: int, figures: str = "") -> None:
        # Started here, so that no bar is shown for work that was already finished.
        bar.start()
        bar.update(task, completed=done, total=total, figures=figures)

    try:
        yield report
    finally:
        bar.stop()
