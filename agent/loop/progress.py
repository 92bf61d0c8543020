"""How far long work is: at a terminal a bar, in a log or a pipe a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from eval.report.text import duration

if TYPE_CHECKING:
    from rich.console import Console

EVERY_S = 30.0
# So soon it is seen that something goes on; then lines come less and less often.
FIRST_S = 10.0


class Report(Protocol):
    """Takes how much is done of the total, and figures to show beside it."""

    def __call__(self, done: int, total: int, figures: str = "") -> None:
        """Show it."""


class Lines:
    """Says how far something is, soon, then every `every_s` seconds, and nothing of quick work."""

    def __init__(
        self,
        say: Callable[[str], None],
        what: str,
        unit: str,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say, self._what, self._unit = say, what, unit
        self._every_s, self._clock = every_s, clock
        self._began = self._said = clock()
        self._wait_s = min(FIRST_S, every_s)
        self._first: int | None = None

    def __call__(self, done: int, total: int, figures: str = "") -> None:
        """Take how much is done."""
        now = self._clock()
        if self._first is None:
            # What an earlier run has done says nothing of the speed.
            self._first, self._began = done, now
        if now - self._said < self._wait_s or done >= total:
            return
        self._said, self._wait_s = now, min(2 * self._wait_s, self._every_s)
        rate = (done - self._first) / max(now - self._began, 1e-6)
        parts = [f"{self._what}: {done} of {total} {self._unit}", *([figures] if figures else [])]
        if rate >= 0.1:
            parts.append(f"{rate:.{0 if rate >= 10 else 1}f} {self._unit}/s")
        if rate > 0:
            parts.append(f"{duration((total - done) / rate)} left")
        self._say(", ".join(parts))


@contextmanager
def counted(console: Console, what: str, unit: str, every_s: float = EVERY_S) -> Iterator[Report]:
    """Show how far something is while it is done; yields what takes the numbers.

    every_s: how often a line is printed where no bar can be drawn.
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
    )
    task = bar.add_task(what, total=None, figures="")

    def report(done: int, total: int, figures: str = "") -> None:
        # Not before: nothing is shown of what is done already.
        bar.start()
        bar.update(task, completed=done, total=total, figures=figures)

    try:
        yield report
    finally:
        bar.stop()
