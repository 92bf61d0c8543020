"""Who is told what a session does: nobody, or a person at a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agent.loop.approval import Answer, Question
from agent.loop.progress import Lines
from memory.records import Plan, Round
from prompts.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


# Below this share of kept images a person is told that the generator draws something else.
_FEW_KEPT = 0.2


class Observer:
    """The silent observer; others override what they show."""

    interactive = False  # whether a person can be asked
    approves = False  # whether a person approves plans

    def ask(self, question: Question) -> Answer:
        """Return a person's answer; only called where `interactive`, or `approves` for plans."""
        raise NotImplementedError

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Bracket a stage of round `number`; 0 stands for the start of a session."""
        yield

    def progress(self, stage: str, unit: str) -> Callable[[int, int], None]:
        """Return a function that takes what is done and the total, in `unit`."""
        return lambda done, total: None

    def planned(self, plan: Plan) -> None:
        """Show an accepted plan."""

    def round_done(self, current: Round) -> None:
        """Show the outcome of a round."""

    def warn(self, text: str) -> None:
        """Show a warning."""


class ConsoleObserver(Observer):
    """Prints stages, a progress bar with rate and time left, and a table per round."""

    def __init__(self, console: Console, n_rounds: int, interactive: bool = False) -> None:
        self.interactive = interactive
        self._console = console
        self._n_rounds = n_rounds
        self._bar: Progress | None = None

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Print the stage's name when it begins and its seconds when it ends."""
        started = time.monotonic()
        where = f"[dim]round {number}/{self._n_rounds}[/dim] " if number else ""
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None
        seconds = time.monotonic() - started
        if seconds >= 0.05:
            self._console.print(f"{where}{name} [green]done[/green] in {seconds:.1f} s")

    def progress(self, stage: str, unit: str) -> Callable[[int, int], None]:
        """Show a bar from the first report on."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        started = time.monotonic()
        state: dict[str, int] = {}
        if not self._console.is_terminal:
            return Lines(lambda text: self._console.print(text, markup=False), stage, unit)

        def report(done: int, total: int) -> None:
            if self._bar is None:
                self._bar = Progress(
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[rate]}"),
                    TimeRemainingColumn(),
                    console=self._console,
                    transient=True,
                )
                self._bar.start()
                state["task"] = int(self._bar.add_task(stage, total=total, rate=""))
            rate = done / max(time.monotonic() - started, 1e-6)
            task = self._bar.tasks[0].id
            self._bar.update(task, completed=done, total=total, rate=f"{rate:.1f} {unit}/s")

        return report

    def planned(self, plan: Plan) -> None:
        """Print the plan's reason and size."""
        hypothesis = plan.hypothesis
        expects = (
            f" Expects {hypothesis.expected_change:+.3f} on '{hypothesis.slice}'."
            if hypothesis
            else ""
        )
        told = _plain(f"{len(plan.prompts)} prompts. {plan.why}{expects}")
        self._console.print(
            f"[dim]round {plan.round}/{self._n_rounds}[/dim] plan: {plan.n_images} images, {told}",
            highlight=False,
        )

    def round_done(self, current: Round) -> None:
        """Print one table per round."""
        from eval.report.blocks import Table, report_table
        from eval.report.terminal import draw

        assert current.batch and current.report  # a round is done after its stages
        made, kept = current.batch.n_made, current.batch.n_kept
        figures = report_table(
            current.report, f"Round {current.number} of {self._n_rounds}", n_slices=1
        )
        audit = ["share of images kept by the audit", f"{kept / made:.3f}", "", str(made)]
        rows = [*figures.rows, audit]
        draw(self._console, [Table(figures.columns, rows, figures.title, figures.right)])
        if kept < _FEW_KEPT * made:
            self.warn(
                f"The audit keeps {kept} of {made} images; most do not show their prompts: "
                "look at them in the report. An MTDM that was trained briefly needs more steps of "
                "shaping pretrain."
            )

    def ask(self, question: Question) -> Answer:
        """Print the question and read the answer."""
        self._console.print("[bold]The agent asks:[/bold]", highlight=False)
        self._console.print(_plain(question.text), highlight=False)
        return Answer(verdict="words", text=self._console.input("> ")[:2000])

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._console.print(f"[yellow]Warning:[/yellow] {_plain(text)}", highlight=False)


def _plain(text: str) -> str:
    """Return a model's text as it can be printed: its brackets are no markup, no terminal codes."""
    from rich.markup import escape

    return escape(printable(text))
