"""The README's figures: what synthetic data of a preset are worth against real ones.

    python -m agent.bench --preset solar --seeds 3

Trains the same DSTM, with the same steps, on the real generator split and on uniformly prompted
synthetic images (with and without the audit's weights), and opens the sealed test split.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agent import planners
from agent.planners import Observation, palette_of
from agent.planning import validate
from agent.settings import Settings, load_settings
from agent.workbench import build_generator, build_target, choose_device
from eval.metrics import balanced_accuracy
from memory.files import write_json
from tools import tasks
from tools.card import agreement
from tools.generate import draw_samples
from tools.generators import Generator
from tools.labelers.audit import train_audit
from tools.samples import Samples, concatenate
from tools.targets import Target
from tools.train import train_model


def uniform_images(
    settings: Settings, target: Target, generator: Generator, n_images: int, seed: int
) -> Samples:
    """Draw `n_images` images of the prompts of the planner `uniform`."""
    observation = Observation(
        round=1,
        n_images=n_images,
        images_per_prompt=settings.session.images_per_prompt,
        seed=seed,
    )
    draft = planners.build("uniform").plan(observation, palette_of(target), target.vocabulary)
    # A plan holds at most so many prompts; the draft of a benchmark may have more.
    parts = []
    for start in range(0, len(draft.prompts), 100):
        piece = draft.model_copy(update={"prompts": draft.prompts[start : start + 100]})
        plan = validate(
            piece,
            1 + start,
            n_images,
            "bench",
            target.vocabulary,
            generator.count_tokens,
            generator.max_tokens,
        )
        wanted = [(prompt, index) for prompt in plan.prompts for index in range(prompt.count)]
        size = settings.session.shard_size
        parts += [
            draw_samples(wanted[i : i + size], seed, generator, target.class_names)
            for i in range(0, len(wanted), size)
        ]
    return concatenate(parts)


def score_on_test(settings: Settings, target: Target, samples: Samples, seed: int) -> float:
    """Train the preset's DSTM on `samples`; return its balanced accuracy on the test split."""
    device = choose_device(settings)
    task = tasks.build(settings.dstm.task)
    train = settings.dstm.model_copy(update={"seed": seed})
    model, _, _ = train_model(samples, task, len(target.class_names), train, device)
    test = target.split("test")
    seen = task.predict(model, test.images).argmax(1)
    return balanced_accuracy(test.classes, seen, len(target.class_names)).value


def main() -> None:
    """Run the benchmark and write its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="solar")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    chosen = parser.parse_args()
    settings = load_settings(chosen.preset, chosen.set, os.environ)
    console = Console(highlight=False)
    target = build_target(settings)
    device = choose_device(settings)
    generator = build_generator(settings, target, device)
    audit = train_audit(target, settings.audit, settings.home / "cache", device)

    scores: dict[str, list[float]] = {"real": [], "synthetic": [], "synthetic, audited": []}
    agreements = []
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
        scores["real"].append(score_on_test(settings, target, target.split("generator"), seed))
        plain = uniform_images(settings, target, generator, chosen.images, seed)
        _, weights, _ = audit.judge(plain)
        audited = replace(plain, weights=weights)
        scores["synthetic"].append(score_on_test(settings, target, plain, seed))
        scores["synthetic, audited"].append(score_on_test(settings, target, audited, seed))
        agreements.append(agreement(audit, target, plain))
        latest = ", ".join(f"{name} {values[-1]:.3f}" for name, values in scores.items())
        console.print(f"seed {seed}: {latest}")

    real = float(np.mean(scores["real"]))
    table = Table("trained on", "balanced accuracy on test", "per seed", "share of the way to real")
    shares = {}
    for name, values in scores.items():
        mean = float(np.mean(values))
        shares[name] = (mean - 0.5) / (real - 0.5)
        each = " ".join(f"{v:.3f}" for v in values)
        table.add_row(name, f"{mean:.3f}", each, f"{shares[name]:.2f}")
    console.print(table)
    result = {
        "images": chosen.images,
        "balanced_accuracy": scores,
        "share_of_the_way_to_real": shares,
        "audit_agreement": agreements,
    }
    write_json(chosen.output, result)
    console.print(f"Figures: {chosen.output}")


if __name__ == "__main__":
    main()
