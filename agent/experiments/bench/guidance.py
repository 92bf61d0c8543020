"""What a pull by the DSTM does to the images of a preset.

    python -m agent.experiments.bench.guidance --preset solar --images 64

Trains a DSTM on uniformly prompted images, as a session's first round does, draws new ones of the
same kind with each pull and the same noise, and measures the DSTM's entropy and loss on them, how
often the audit agrees with their class, and how far they are from the photographs that `real`
pulls them to.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agent import planners
from agent.config.settings import load_settings
from agent.experiments.bench.value import uniform_images
from agent.loop.components import Components
from agent.loop.validation import validate
from agent.planners import Observation, distribution_of
from memory.files import write_json
from tools import tasks
from tools.data.samples import Samples
from tools.diffusion.guidance import Critic, failed_photographs
from tools.generate_batch import draw
from tools.targets import label_names
from tools.train_dstm import train_model

PULLS = (
    *("entropy 0.03", "entropy 0.05", "entropy 0.1"),
    *("loss 0.03", "loss 0.05", "loss 0.1"),
    *("real 0.1", "real 0.3", "real 0.9"),
)


def main() -> None:
    """Run the benchmark and write its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="solar")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--train-images", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("bench_pull.json"))
    chosen = parser.parse_args()
    settings = load_settings(chosen.preset, chosen.set, os.environ)
    components = Components(settings)
    target, device, judge = components.target, components.device, components.judge
    generator = components.generator
    names = list(target.class_names)

    known = uniform_images(settings, target, generator, judge, chosen.train_images, chosen.seed)
    task = tasks.build(settings.dstm.task)
    train = settings.dstm.model_copy(update={"seed": chosen.seed})
    model, _, _ = train_model(known, task, len(label_names(target, task)), train, device)
    model.requires_grad_(requires_grad=False)
    feedback = target.split("feedback")
    scores = task.scores(task.predict(model, feedback.images), feedback)
    critic = Critic(model, task, train, "bench", failed_photographs(scores, feedback))

    def measure(by: str, samples: Samples) -> float:
        pixels = torch.from_numpy(samples.images).to(device).float() / 255
        classes = samples.classes.tolist()
        with torch.no_grad():
            return float(critic.criterion(by, pixels, classes, samples.labels).mean())

    observation = Observation(
        round=2,
        n_images=chosen.images,
        images_per_prompt=settings.session.images_per_prompt,
        seed=chosen.seed + 1,
    )
    draft = planners.build("uniform").plan(observation, distribution_of(target), target.vocabulary)
    plan = validate(
        draft,
        2,
        chosen.images,
        "bench",
        target.vocabulary,
        generator.count_tokens,
        generator.max_tokens,
    )
    rows = []
    table = Table("pull", "entropy", "loss", "audit agrees", "distance to a failed photograph")
    for pull in (None, *PULLS):
        prompts = [prompt.model_copy(update={"pull": pull}) for prompt in plan.prompts]
        wanted = [(prompt, index) for prompt in prompts for index in range(prompt.count)]
        samples, confidence = draw(wanted, chosen.seed, generator, names, critic)
        _, _, kept = judge.judge(samples, confidence)
        near = []
        for (prompt, index), image in zip(wanted, samples.images, strict=True):
            to_real = prompt.model_copy(update={"pull": "real 1"})
            goal = critic.pull(to_real, index, names.index(prompt.class_name))
            if goal and goal.photograph is not None:
                difference = image.astype(float) - goal.photograph
                near.append(float(np.sqrt(np.mean(difference**2))) / 255)
        figures = {
            "entropy": measure("entropy", samples),
            "loss": measure("loss", samples),
            "audit agrees": float(kept.mean()),
            "distance": float(np.mean(near)),
        }
        rows.append({"pull": pull or "none", **figures})
        table.add_row(pull or "none", *(f"{value:.3f}" for value in figures.values()))
    Console(highlight=False).print(table)
    write_json(chosen.output, {"preset": chosen.preset, "images": chosen.images, "rows": rows})


if __name__ == "__main__":
    main()
