"""What a pull by the DSTM does to the images of a preset.

    python -m agent.experiments.bench.guidance --preset solar --images 64

Trains a DSTM on uniformly prompted images, as a session's first round does, draws new ones of the
same kind with each pull and the same noise, and measures the DSTM's entropy and loss on them, how
often the audit agrees with their class, and how far they are from the photographs that `real`
pulls them to.
"""

from __future__ import annotations

import numpy as np
import torch

from agent.experiments.arm_sessions import fit
from agent.experiments.bench.harness import (
    Benchmark,
    Figures,
    options,
    uniform_images,
    uniform_prompts,
)
from tools.data.samples import Samples
from tools.diffusion.guidance import Critic, failed_photographs
from tools.generate_batch import draw

PULLS = (
    *("entropy 0.03", "entropy 0.05", "entropy 0.1"),
    *("loss 0.03", "loss 0.05", "loss 0.1"),
    *("real 0.1", "real 0.3", "real 0.9"),
)


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, seeds=1)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--train-images", type=int, default=200)
    bench = Benchmark(parser.parse_args())
    components, chosen = bench.components, bench.chosen
    names, task = list(components.target.class_names), components.task

    def figures(seed: int) -> Figures:
        images = uniform_images(components, chosen.train_images, seed)
        model = fit(components, images, seed).model
        model.requires_grad_(requires_grad=False)
        feedback = components.target.split("feedback")
        scores = task.scores(task.predict(model, feedback.images), feedback)
        settings = bench.settings.dstm.model_copy(update={"seed": seed})
        critic = Critic(model, task, settings, "bench", failed_photographs(scores, feedback))
        prompts = uniform_prompts(components, chosen.images, seed + 1, number=2)

        def measure(by: str, samples: Samples) -> float:
            pixels = torch.from_numpy(samples.images).to(components.device).float() / 255
            classes = samples.classes.tolist()
            with torch.no_grad():
                return float(critic.criterion(by, pixels, classes, samples.labels).mean())

        rows = {}
        for pull in (None, *PULLS):
            wanted = [(p.model_copy(update={"pull": pull}), index) for p, index in prompts]
            samples, confidence = draw(wanted, seed, components.generator, names, critic)
            _, _, kept = components.judge.verify(samples, confidence)
            distances = []
            for (prompt, index), image in zip(wanted, samples.images, strict=True):
                to_real = prompt.model_copy(update={"pull": "real 1"})
                goal = critic.guidance(to_real, index, names.index(prompt.class_name))
                if goal and goal.photograph is not None:
                    difference = image.astype(float) - goal.photograph
                    distances.append(float(np.sqrt(np.mean(difference**2))) / 255)
            rows[pull or "none"] = {
                "entropy": measure("entropy", samples),
                "loss": measure("loss", samples),
                "audit agrees": float(kept.mean()),
                "distance to a failed photograph": float(np.mean(distances)),
            }
        return rows

    bench.means(["pull", "figure"], bench.seeds(figures))


if __name__ == "__main__":
    main()
