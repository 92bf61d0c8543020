"""What a round costs in a long session: processor time, memory and disk, by round.

    python -m benchmarks.rounds --rounds 1000 --csv FILE

Runs a session of the target and the generator `toy` with the default brain, few images and few
training steps, so that mostly the program's own work remains: graph, journal, memory, planner,
files. Seconds are processor time; because it also grows on a busy machine, a fixed piece of work is
timed in every round, and the cost of a round is reported relative to it. Prints means over tenths
of the rounds, and the last tenth relative to the second one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from agent.autonomous.report import write_report
from agent.autonomous.results import write_results
from agent.autonomous.runner import run_rounds
from agent.config.settings import Settings
from agent.loop.components import Components
from agent.loop.observer import Observer
from agent.session.folder import open_session
from benchmarks.harness import Benchmark, options
from memory.records import Round

NAME = "long"
SMALL = (
    "target.name=toy",
    "generator.name=toy",
    "dstm.steps=4",
    "dstm.batch_size=8",
    "audit.train.steps=4",
    "audit.train.batch_size=8",
    "feedback.n_min=5",
    "feedback.slices=[[brightness], [severity]]",
    "feedback.discovery=off",
    "session.images_per_round=8",
    "session.images_per_prompt=4",
    "session.shard_size=8",
    "limits.disk_reserve_gb=0",
    f"session.name={NAME}",
    "device=cpu",
)


class Cost(NamedTuple):
    """Cost of a round.

    Attributes:
        round: Number of the round.
        seconds: Processor time.
        reference_s: Processor time of a fixed piece of work, measured at the end of the round.
        n_read: Number of journal lines that were read.
        memory_mb: Resident memory at the end of the round.
        n_files, folder_mb: Number and size of the session's files at the end of the round.
    """

    round: int
    seconds: float
    reference_s: float
    n_read: int
    memory_mb: float
    n_files: int
    folder_mb: float


class Meter(Observer):
    """Observer that measures the cost of every round and passes it to `tell`."""

    def __init__(self, folder: Path, n_read: Callable[[], int], tell: Callable[[Cost], object]):
        self._folder, self._n_read, self._tell = folder, n_read, tell
        self._process = psutil.Process()
        self.costs: list[Cost] = []
        self._since, self._read_before = time.process_time(), n_read()

    def round_done(self, current: Round) -> None:
        """Record the cost of the round; the measurement itself is not counted."""
        seconds, n_read = time.process_time() - self._since, self._n_read() - self._read_before
        memory_mb = self._process.memory_info().rss / 1e6
        folder = size_of(self._folder)
        cost = Cost(current.number, seconds, reference(), n_read, memory_mb, *folder)
        self.costs.append(cost)
        self._tell(cost)
        self._since, self._read_before = time.process_time(), self._n_read()


def reference() -> float:
    """Return the processor seconds of a fixed piece of work."""
    started = time.process_time()
    for _ in range(5):
        sum(range(100_000))
    return time.process_time() - started


def size_of(folder: Path) -> tuple[int, float]:
    """Return the number of files below a folder and their total size in MB."""
    paths = [Path(place) / name for place, _, names in os.walk(folder) for name in names]
    return len(paths), sum(path.stat().st_size for path in paths if path.exists()) / 1e6


def measure(settings: Settings, tell: Callable[[Cost], object] = lambda cost: None) -> list[Cost]:
    """Run the rounds of a session and return their costs."""
    with open_session(settings, NAME) as session:
        meter = Meter(session.folder, lambda: session.journal.n_read, tell)
        run_rounds(Components.of_session(session, meter))
    return meter.costs


def tenths(costs: Sequence[Cost]) -> list[Sequence[Cost]]:
    """Split the rounds, at least ten, into ten equal parts; the last one has the remainder."""
    size = len(costs) // 10
    return [costs[n * size : (n + 1) * size if n < 9 else None] for n in range(10)]


def growth(costs: Sequence[Cost]) -> dict[str, float]:
    """Return the last tenth of the rounds relative to the second, by figure.

    For files and their size it compares the increase per round.
    """
    parts = tenths(costs)
    early, late = parts[1], parts[-1]
    slower = mean(late, "reference_s") / mean(early, "reference_s")
    return {
        "seconds": mean(late, "seconds") / mean(early, "seconds") / slower,
        "memory_mb": mean(late, "memory_mb") / mean(early, "memory_mb"),
        "n_files": added(late, "n_files") / added(early, "n_files"),
        "folder_mb": added(late, "folder_mb") / added(early, "folder_mb"),
    }


def mean(costs: Sequence[Cost], name: str) -> float:
    """Return the mean of a figure."""
    return float(sum(getattr(cost, name) for cost in costs) / len(costs))


def added(costs: Sequence[Cost], name: str) -> float:
    """Return the mean increase of a figure per round; needs at least two rounds."""
    return float((getattr(costs[-1], name) - getattr(costs[0], name)) / (len(costs) - 1))


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, seeds=1)
    parser.add_argument("--rounds", type=int, default=1000, help="at least 20")
    parser.add_argument("--csv", type=Path, default=Path(os.devnull), help="figures of every round")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, chosen.csv.open("w", encoding="utf-8") as file:
        fixed = [*SMALL, f"session.rounds={chosen.rounds}", f"home={home}"]
        bench = Benchmark(chosen, [*fixed, f"session.seed={chosen.first_seed}"])

        def write(values: Sequence[object]) -> None:
            file.write(",".join(map(str, values)) + "\n")
            file.flush()

        write(Cost._fields)
        costs = measure(bench.settings, write)
        heads = ("seconds", "of reference", "lines read", "memory, MB", "files added", "MB added")
        rows = [
            [
                f"{part[0].round}-{part[-1].round}",
                mean(part, "seconds"),
                f"{mean(part, 'seconds') / mean(part, 'reference_s'):.0f}",
                f"{mean(part, 'n_read'):.1f}",
                f"{mean(part, 'memory_mb'):.0f}",
                f"{added(part, 'n_files'):.2f}",
                added(part, "folder_mb"),
            ]
            for part in tenths(costs)
        ]
        bench.table(["rounds", *heads], rows)
        ratios = ", ".join(f"{name} {ratio:.3f}" for name, ratio in growth(costs).items())
        bench.console.print(f"Last tenth relative to the second: {ratios}")
        started = time.process_time()
        report = write_report(bench.settings.home, NAME)
        seconds, size_mb = time.process_time() - started, report.stat().st_size / 1e6
        bench.console.print(f"Report: {seconds:.1f} s, {size_mb:.1f} MB")
        started = time.process_time()
        with open_session(bench.settings, NAME) as session:
            write_results(session)
        bench.console.print(f"Best model and data set: {time.process_time() - started:.1f} s")


if __name__ == "__main__":
    main()
