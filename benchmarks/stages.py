"""Processor time of a session by stage.

    OMP_NUM_THREADS=1 python -m benchmarks.stages --rounds 2 --images 40

Runs a session of the preset in a new home folder, with report and results. Seconds are processor
time over all threads; with one thread they hardly depend on the load of the machine. `start` is the
time of the imports, `rest` the time outside of all stages: graph, memory and journal.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from agent.autonomous.report import write_report
from agent.autonomous.results import write_results
from agent.autonomous.runner import run_rounds
from agent.loop.components import Components
from agent.loop.observer import Observer
from agent.session.folder import open_session
from benchmarks.harness import Benchmark, options

NAME = "stages"
STARTED = time.process_time()


class StageMeter(Observer):
    """Observer that adds up the processor time of each stage, excluding nested stages."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._within: list[float] = []

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Measure a stage."""
        started = time.process_time()
        self._within.append(0.0)
        try:
            yield
        finally:
            seconds = time.process_time() - started
            self.seconds[name] += seconds - self._within.pop()
            self.calls[name] += 1
            if self._within:
                self._within[-1] += seconds


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, seeds=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--images", type=int, default=40, help="images per round")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        changes = [
            f"home={home}",
            f"session.seed={chosen.first_seed}",
            f"session.rounds={chosen.rounds}",
            f"session.images_per_round={chosen.images}",
        ]
        bench = Benchmark(chosen, changes)
        meter = StageMeter()
        with open_session(bench.settings, NAME) as session:
            run_rounds(Components.of_session(session, meter))
            with meter.stage("report", 0):
                write_report(bench.settings.home, NAME)
            with meter.stage("results", 0):
                write_results(session)
    in_all = time.process_time()
    rest = in_all - STARTED - sum(meter.seconds.values())
    seconds = {"start": STARTED, **meter.seconds, "rest": rest}
    rows = [
        [name, meter.calls[name] or 1, of_stage, f"{of_stage / in_all:.0%}"]
        for name, of_stage in [*seconds.items(), ("all", in_all)]
    ]
    bench.table(["stage", "times", "processor_s", "share"], rows)


if __name__ == "__main__":
    main()
