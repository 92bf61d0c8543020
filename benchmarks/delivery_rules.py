"""Which rule delivers the better model? Two rules, on the sessions of a comparison.

    python -m benchmarks.delivery_rules HOME/compare/NAME --first-seed 10 --seeds 10

`one standard error`: of the rounds within one standard error (of the paired difference) of the best
on feedback, the one with the fewest images, as in sessions. `best on feedback`: the best round.
Figures are the main figure on the sealed test split minus that of round 0.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console

from agent.autonomous.delivery import chosen_round
from agent.experiments.arm_sessions import NAME
from agent.loop.components import Components
from agent.session.folder import folder_of, stored_settings
from benchmarks.harness import command, origin
from eval.delivery import delivered_round
from eval.intervals import mean_interval
from eval.report.text import estimate_text
from memory.csv_text import write_csv
from memory.journal import read_events, rounds
from tools.evaluate_real import read_sealed

RULES = ("one standard error", "best on feedback")


def gains(home: Path) -> tuple[float, float] | None:
    """Return the gain of each rule over round 0 on the test split; None: an arm without images.

    home: Home folder of the arm's session.
    """
    settings, folder = stored_settings(home, NAME), folder_of(home, NAME)
    settings = settings.model_copy(update={"home": home})
    past = rounds(read_events(folder / "journal.jsonl"))
    if not past[-1].number:
        return None
    target = Components(settings).target
    score = {r.round: r.metrics[r.main_metric].value for r in read_sealed(folder)}
    chosen = chosen_round(folder, settings, target, past)
    best = delivered_round(past, settings.session.deliver)
    assert chosen and best  # the session has run
    return score[chosen.number] - score[0], score[best.number] - score[0]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of a comparison with its sessions")
    parser.add_argument("--seeds", type=int, default=10, help="how many, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("bench-delivery_rules.csv"))
    chosen = parser.parse_args()
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    by_arm: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in seeds:
        for home in sorted((chosen.folder / f"seed-{seed:03d}").glob("*/home")):
            if gained := gains(home):
                by_arm[home.parent.name].append(gained)
    by_arm["mean of the arms"] = [
        tuple(np.mean([values[n] for values in by_arm.values()], axis=0)) for n in range(len(seeds))
    ]
    named = command().replace(str(chosen.folder), f"HOME/compare/{chosen.folder.name}")
    stamp = origin(named)
    console, rows = Console(highlight=False, soft_wrap=True), []
    for arm, values in by_arm.items():
        one, best = np.array(values).T
        for name, each in (*zip(RULES, (one, best), strict=True), ("difference", best - one)):
            change = mean_interval(each)
            per_seed = " ".join(f"{value:.3f}" for value in each)
            cells = [f"{value:.4f}" for value in (change.value, change.low, change.high)]
            rows.append([arm, name, *cells, per_seed, *stamp])
            console.print(f"{arm}, {name}: {estimate_text(change, sign=True)}")
    heads = ["arm", "rule", "minus round 0", "low", "high", "per seed", "command", "commit"]
    write_csv(chosen.output, [*heads, "machine"], rows, line_end="\r\n")


if __name__ == "__main__":
    main()
