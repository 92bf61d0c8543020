"""What are generated images of a preset worth, compared with photographs?

    python -m benchmarks.value --preset solar --seeds 3

Trains the same DSTM, with the same number of steps, on the photographs of the generator split, on
uniformly prompted images (with and without the audit's weights) and on both, and evaluates it on
the sealed test split. --show "light=dusk" prints another figure of the report. --session NAME, once
for each seed, uses the images that a session has drawn instead of uniformly prompted ones.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.experiments.arm_sessions import fit, report
from agent.loop.components import Components
from agent.session.folder import folder_of
from benchmarks.harness import Benchmark, options, uniform_images
from memory.errors import DataError
from memory.journal import read_events, rounds
from tools.data.jobs import shards_of
from tools.data.samples import Samples, concatenate
from tools.data.shards import read_shards
from tools.labelers.audit import AuditClassifier
from tools.pretraining.card import audit_agreement

ARMS = ("real", "synthetic", "synthetic, audited", "real + synthetic, audited")


def session_images(home: Path, name: str) -> Samples:
    """Return all images of a session, with the weights of its audit; raise DataError if none."""
    folder = folder_of(home, name)
    shards = shards_of(folder, rounds(read_events(folder / "journal.jsonl")))
    if not shards:
        raise DataError(f"The session {name!r} in {home} has drawn no image. Run it first.")
    return read_shards(shards)


def score_on_test(components: Components, samples: Samples, seed: int) -> dict[str, float]:
    """Train the preset's DSTM on `samples`; return its figures on the test split.

    The main figure is named `main`; metrics and slices are named as in the report.
    """
    measured, _ = report(components, fit(components, samples, seed), "test")
    figures = {name: estimate.value for name, estimate in measured.metrics.items()}
    figures |= {part.key: part.accuracy.value for part in measured.slices}
    return {"main": measured.metrics[measured.main_metric].value, **figures}


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--session", action="append", default=[], metavar="NAME")
    parser.add_argument("--show", action="append", default=[], metavar="FIGURE")
    chosen = parser.parse_args()
    if chosen.session and len(chosen.session) != chosen.seeds:
        parser.error(f"--session must be given once for each seed: {chosen.seeds} times")
    bench = Benchmark(chosen)
    components = bench.components
    real = components.target.split("generator")

    def figures(seed: int) -> dict[str, Any]:
        if chosen.session:
            name = chosen.session[seed - chosen.first_seed]
            drawn = session_images(bench.settings.home, name)
        else:
            drawn = uniform_images(components, chosen.images, seed)
        plain = replace(drawn, weights=np.ones(len(drawn)))
        training_sets = (real, plain, drawn, concatenate([real, drawn]))
        scores: dict[str, Any] = {
            name: score_on_test(components, samples, seed)
            for name, samples in zip(ARMS, training_sets, strict=True)
        }
        if isinstance(components.judge, AuditClassifier):
            scores["audit"] = audit_agreement(components.judge, components.target, drawn)
        return scores

    seeds = bench.seeds(figures)
    # Of all main figures, only balanced accuracy is above 0 for a random guess.
    n_classes = len(components.target.class_names)
    floor = 1 / n_classes if bench.settings.dstm.task == "classification" else 0.0
    of_real = float(np.mean([scores["real"]["main"] for scores in seeds]))
    rows = []
    for figure in ("main", *chosen.show):
        for name in ARMS:
            values = [scores[name].get(figure, math.nan) for scores in seeds]
            mean = float(np.mean(values))
            way = of_real - floor if figure == "main" else 0.0
            share = f"{(mean - floor) / way:.2f}" if way else ""
            rows.append([name, figure, mean, " ".join(f"{v:.3f}" for v in values), share])
    for figure in seeds[0].get("audit", ()):
        values = [scores["audit"][figure] for scores in seeds]
        mean, each = float(np.mean(values)), " ".join(f"{value:.3f}" for value in values)
        rows.append(["audit of the images", figure, mean, each, ""])
    bench.table(["trained on", "figure", "on test", "per seed", "share of the way to real"], rows)


if __name__ == "__main__":
    main()
