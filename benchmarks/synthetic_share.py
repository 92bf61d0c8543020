"""Which share of a batch should be generated images? Measured on feedback, never on the test split.

    python -m benchmarks.synthetic_share --preset solar --seeds 4 --real 210

Trains the preset's DSTM, with the same number of steps, on photographs and uniformly prompted
images, for each value of `dstm.synthetic_share` and of `dstm.synthetic_weight`; the share 0 is
training on photographs alone. Figures are paired differences from it, with t-intervals. With
--refresh each model is also measured with batch normalisation statistics of photographs alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.optim.swa_utils import update_bn

from agent.experiments.arm_sessions import report
from benchmarks.harness import Benchmark, options, uniform_images
from eval.intervals import mean_interval
from tools.data.samples import Samples, concatenate
from tools.models.criteria import Dstm
from tools.settings import DstmSettings
from tools.tasks import Model, pixel_batches
from tools.train_dstm import train_model

REFRESHED = "refreshed"


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=800, help="generated images")
    parser.add_argument("--real", type=int, help="photographs; default: all")
    parser.add_argument("--shares", default="0,0.1,0.2,0.333,0.5,0.667,1")
    parser.add_argument("--weights", default="1")
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="also measure each model with batch normalisation statistics of photographs alone",
    )
    chosen = parser.parse_args()
    bench = Benchmark(chosen, ["dstm.train_on=real+synthetic"])
    components = bench.components
    shares, weights = (
        [float(value) for value in text.split(",")] for text in (chosen.shares, chosen.weights)
    )
    if 0 not in shares:
        parser.error("--shares must contain 0, photographs alone, as the baseline")
    # Without images their weight has no effect.
    cells = [(s, w) for s in shares for w in (weights if s else [1.0])]

    def measured(model: Model, settings: DstmSettings) -> dict[str, float]:
        of_feedback, _ = report(components, Dstm(model, components.task, settings), "feedback")
        worst = sorted(part.accuracy.value for part in of_feedback.slices)[:5]
        main = of_feedback.metrics[of_feedback.main_metric].value
        return {"main": main, "worst_five": float(np.mean(worst))}

    def score(real: Samples, drawn: Samples, seed: int, share: float, weight: float) -> Any:
        changes = {"synthetic_share": share, "synthetic_weight": weight, "seed": seed}
        settings = bench.settings.dstm.model_copy(update=changes)
        samples = concatenate([real, drawn]) if share else real
        is_real = np.arange(len(samples)) < len(real)
        model, _ = train_model(
            samples,
            components.task,
            len(components.label_names),
            settings,
            components.device,
            is_real=is_real,
        )
        figures = measured(model, settings)
        if chosen.refresh:
            update_bn(pixel_batches(real.images, settings.batch_size), model)
            again = measured(model.eval(), settings)
            figures |= {f"{name}, {REFRESHED}": value for name, value in again.items()}
        return figures

    def figures(seed: int) -> Any:
        real = components.photographs(chosen.real, seed)
        drawn = uniform_images(components, chosen.images, seed)
        return {f"{s:g} {w:g}": score(real, drawn, seed, s, w) for s, w in cells}

    seeds = bench.seeds(figures)
    rows = []
    for share, weight in cells:
        cell = f"{share:g} {weight:g}"
        for name in seeds[0][cell]:
            plain, _, is_again = name.partition(", ")
            base, against = (cell, "not refreshed") if is_again else ("0 1", "real alone")
            each = np.array([values[cell][name] for values in seeds])
            change = mean_interval(each - np.array([values[base][plain] for values in seeds]))
            rows.append(
                [f"{share:g}", f"{weight:g}", name, float(each.mean()), against,
                 float(change.value), float(change.low), float(change.high),
                 " ".join(f"{value:.3f}" for value in each)]
            )  # fmt: skip
    bench.table(
        [
            "share",
            "weight",
            "figure on feedback",
            "mean",
            "minus that of",
            "difference",
            "low",
            "high",
            "per seed",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
