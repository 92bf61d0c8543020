"""How many planted copies of photographs are detected, and how many other photographs are flagged?

    OMP_NUM_THREADS=1 python -m benchmarks.copies --home FOLDER solar streets camvid=FOLDER

Photographs of the split generator are copied (mirrored where the data allow it, cropped to 0.8 to 1
of each side, contrast and brightness changed by up to 20%, noise of 5 of 255). The limit is
calibrated on audit and feedback; false alarms are counted on one photograph of each group of test.
Writes docs/results/copies.csv.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from agent.config.settings import load_settings
from agent.loop.components import Components
from eval.metrics import wilson
from memory.csv_text import write_csv
from tools.models.copies import N_MOST, finder_of, plant

RESULT = Path(__file__).parents[1] / "docs" / "results" / "copies.csv"
COLUMNS = (
    "data", "pixels", "photographs", "unseen", "limit", "found", "found_low", "found_high",
    "power_shown", "flagged", "flagged_low", "flagged_high", "n_test", "cpu_s_start",
    "cpu_ms_per_image",
)  # fmt: skip
_SEED = 7

console = Console(highlight=False, soft_wrap=True)


def row_of(data: str, home: Path, n: int) -> list[str]:
    """Return the figures of a preset, or of PRESET=FOLDER of its photographs."""
    preset, _, folder = data.partition("=")
    overrides = [f"home={home}", *([f"target.options.path={folder}"] if folder else [])]
    target = Components(load_settings(preset, overrides)).target
    known, test = target.split("generator"), target.split("test")
    start = time.process_time()
    finder = finder_of(target)
    limit, power = finder.limit, finder.power
    ready = time.process_time()
    rows = np.random.default_rng(_SEED).permutation(min(len(known), N_MOST))[:n]
    planted = plant(finder.photographs[rows], target.flips, _SEED)
    copied = finder.is_copy(finder.search(planted)[1])
    per_image = (time.process_time() - ready) / len(rows)
    _, one_of_each = np.unique(test.groups or test.ids, return_index=True)
    alarms = finder.is_copy(finder.search(test.images[np.sort(one_of_each)[:n]])[1])
    found, flagged = (wilson(int(x.sum()), len(x)) for x in (copied, alarms))
    return [
        Path(preset).stem,
        "x".join(map(str, reversed(target.image_shape[1:]))),
        str(int(finder.known.sum())),
        str(int((~finder.known).sum())),
        f"{limit:.3f}",
        *(f"{x:.3f}" for x in (found.value, found.low, found.high, power.value)),
        *(f"{x:.4f}" for x in (flagged.value, flagged.low, flagged.high)),
        str(flagged.n),
        f"{ready - start:.1f}",
        f"{1000 * per_image:.1f}",
    ]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", help="PRESET, or PRESET=FOLDER of its photographs")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("-n", type=int, default=400, help="copies, and photographs of test")
    arguments = parser.parse_args()
    rows = []
    for data in arguments.data:
        rows.append(row_of(data, arguments.home, arguments.n))
        console.print(*rows[-1])
        write_csv(RESULT, COLUMNS, rows)


if __name__ == "__main__":
    main()
