"""Are weights that draw in few steps as good as those that they were distilled from?

    OMP_NUM_THREADS=1 python -m benchmarks.few_steps --preset solar --seeds 3

Draws images for captions of photographs with each of --weights, in its own number of steps and with
the same noise. Prints the score of a DSTM trained on these images alone on the sealed test split,
how often a classifier recognises the prompt's class, how often measurable attributes are those of
the prompt, and images per processor second.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from benchmarks.harness import Benchmark, Figures, options
from benchmarks.value import score_on_test
from tools.diffusion.weights import load_pipeline, weights_folder
from tools.generators.mtdm import MTDMGenerator
from tools.pretraining.card import attribute_agreement, draw_like

WEIGHTS = ("bundled:solar", "bundled:solar-3-steps")


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=256, help="images per seed")
    parser.add_argument("--weights", nargs="+", default=WEIGHTS)
    chosen = parser.parse_args()
    bench = Benchmark(chosen)
    components = bench.components
    target, classifier = components.target, components.classifier(components.target)

    def figures(seed: int) -> Figures:
        by_weights: dict[str, Mapping[str, float]] = {}
        for weights in chosen.weights:
            pipeline = load_pipeline(weights_folder(weights), components.device)
            begun = time.process_time()
            samples, _ = draw_like(target, MTDMGenerator(pipeline), chosen.images, seed)
            seconds = time.process_time() - begun
            control = attribute_agreement(target, samples)
            shares = {f"{name} as prompted": one["agreement"] for name, one in control.items()}
            by_weights[weights] = {
                "test score of a DSTM": score_on_test(components, samples, seed)["main"],
                "class seen": classifier.agreement(samples),
                "attributes as prompted": float(np.mean(list(shares.values()))),
                **shares,
                "images per processor second": chosen.images / seconds,
            }
        return by_weights

    bench.means(["weights", "figure"], bench.seeds(figures))


if __name__ == "__main__":
    main()
