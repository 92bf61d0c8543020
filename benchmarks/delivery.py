"""Does a session ever deliver a model worse than round 0? Measured on the sealed test split.

    python -m benchmarks.delivery --preset solar --seeds 20 --set session.rounds=2

Runs a whole session for each seed, which also selects the photographs if `dstm.real_images` is set,
and compares the delivered model with that of round 0: the difference of the main figure with its
paired interval over photographs. The last column is the difference for the round with images that
is best on feedback, whether or not it is delivered. For your own data: --preset own and, with
--set, target.options.path and generator.weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from agent.autonomous.runner import run
from agent.autonomous.status import read_delivery
from benchmarks.harness import Benchmark, options
from eval.intervals import mean_interval
from memory.errors import DataError


def main() -> None:
    """Run the benchmark."""
    bench = Benchmark(options(__doc__, seeds=20).parse_args())

    def figures(seed: int) -> dict[str, Any]:
        session = bench.settings.session
        name = f"{bench.settings.stem.replace(':', '-')}-delivery-{seed}"
        session = session.model_copy(update={"seed": seed, "name": name})
        settings = bench.settings.model_copy(update={"session": session})
        folder = run(settings, Console(quiet=True)).parent
        delivery = read_delivery(folder)
        if delivery is None:
            raise DataError(f"Session {name} has no round with images that can be compared.")
        change = delivery.changes[0]
        best = change.difference
        return {
            "round": delivery.round,
            "before": change.before,
            "delivered": [best.value, best.low, best.high] if delivery.round else [0.0] * 3,
            "best": [best.value, best.low, best.high],
        }

    seeds = bench.seeds(figures)
    rows: list[list[object]] = []
    for number, one in enumerate(seeds, start=bench.chosen.first_seed):
        rows.append([str(number), one["round"], one["before"], *one["delivered"], one["best"][0]])
    delivered, best = (np.array([one[key][0] for one in seeds]) for key in ("delivered", "best"))
    mean, of_best = mean_interval(delivered), mean_interval(best)
    before = float(np.mean([one["before"] for one in seeds]))
    rows.append(["mean", "", before, mean.value, mean.low, mean.high, of_best.value])
    heads = ["seed", "delivered round", "round 0", "delivered minus round 0", "low", "high"]
    bench.table([*heads, "best with images minus round 0"], rows)
    harmed = sum(one["delivered"][2] < 0 for one in seeds)
    bench.console.print(f"Worse than round 0 by more than the interval: {harmed} of {len(seeds)}.")


if __name__ == "__main__":
    main()
