"""The README's figures: what synthetic data of a preset are worth against real ones.

    python -m agent.experiments.bench.value --preset solar --seeds 3

Trains the same DSTM, with the same steps, on the real generator split, on uniformly prompted
synthetic images (with and without the audit's weights) and on both together, and opens the sealed
test split. --show "light=dusk" prints another figure of the report. --session NAME, once for each
seed, takes the images that a session has drawn (shaped ones) in place of uniformly prompted ones.
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agent import planners
from agent.config.settings import Settings, load_settings
from agent.loop.components import Components
from agent.loop.validation import validate
from agent.planners import Observation, distribution_of
from agent.session.folder import folder_of
from memory.errors import DataError
from memory.files import write_json
from memory.journal import read_events, rounds
from tools import tasks
from tools.data.jobs import shards_of
from tools.data.samples import Samples, concatenate
from tools.data.shards import read_shards
from tools.generate_batch import Judge, draw
from tools.generators import Generator
from tools.labelers.audit import AuditClassifier
from tools.pretraining.card import agreement
from tools.targets import Target, label_names
from tools.train_dstm import train_model

ARMS = ("real", "synthetic", "synthetic, audited", "real + synthetic, audited")


def uniform_images(
    settings: Settings,
    target: Target,
    generator: Generator,
    judge: Judge,
    n_images: int,
    seed: int,
) -> Samples:
    """Draw `n_images` images of the prompts of the planner `uniform`, weighed by the judge."""
    observation = Observation(
        round=1,
        n_images=n_images,
        images_per_prompt=settings.session.images_per_prompt,
        seed=seed,
    )
    draft = planners.build("uniform").plan(observation, distribution_of(target), target.vocabulary)
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
        for i in range(0, len(wanted), size):
            samples, confidence = draw(wanted[i : i + size], seed, generator, target.class_names)
            _, weights, _ = judge.judge(samples, confidence)
            parts.append(replace(samples, weights=weights))
    return concatenate(parts)


def session_images(home: Path, name: str) -> Samples:
    """Return all images of a session, weighed by its audit; DataError where it has none."""
    folder = folder_of(home, name)
    shards = shards_of(folder, rounds(read_events(folder / "journal.jsonl")))
    if not shards:
        raise DataError(f"The session {name!r} in {home} has drawn no image. Run it first.")
    return read_shards(shards).samples


def score_on_test(
    settings: Settings, target: Target, samples: Samples, seed: int
) -> dict[str, float]:
    """Train the preset's DSTM on `samples`; return its figures on the test split.

    The main one is called `main`, the others as in the report: metrics and slices by their names.
    """
    device = Components(settings).device
    task = tasks.build(settings.dstm.task)
    train = settings.dstm.model_copy(update={"seed": seed})
    names = label_names(target, task)
    model, _, _ = train_model(samples, task, len(names), train, device)
    test, feedback = target.split("test"), settings.feedback
    said = task.predict(model, test.images)
    report = task.report(said, test, names, 0, "test", feedback.slices, feedback.n_min)
    figures = {name: value.value for name, value in report.metrics.items()}
    figures |= {part.key: part.accuracy.value for part in report.slices}
    return {"main": report.metrics[report.main_metric].value, **figures}


def main() -> None:
    """Run the benchmark and write its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="solar")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--session", action="append", default=[], metavar="NAME")
    parser.add_argument("--show", action="append", default=[], metavar="FIGURE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("bench.json"))
    chosen = parser.parse_args()
    if chosen.session and len(chosen.session) != chosen.seeds:
        parser.error(f"--session is wanted once for each seed: {chosen.seeds} times")
    settings = load_settings(chosen.preset, chosen.set, os.environ)
    shaped = [session_images(settings.home, name) for name in chosen.session]
    console = Console(highlight=False)
    components = Components(settings)
    target, generator, judge = components.target, components.generator, components.judge

    scores: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    agreements = []
    real = target.split("generator")
    for i in range(chosen.seeds):
        seed = chosen.first_seed + i
        if shaped:
            drawn = shaped[i]
        else:
            drawn = uniform_images(settings, target, generator, judge, chosen.images, seed)
        plain = replace(drawn, weights=np.ones(len(drawn)))
        trained_on = dict(zip(ARMS, (real, plain, drawn, concatenate([real, drawn])), strict=True))
        for name, samples in trained_on.items():
            scores[name].append(score_on_test(settings, target, samples, seed))
        if isinstance(judge, AuditClassifier):
            agreements.append(agreement(judge, target, drawn))
        latest = ", ".join(f"{name} {values[-1]['main']:.3f}" for name, values in scores.items())
        console.print(f"seed {seed}: {latest}")

    # What a guess is worth: balanced accuracy only has a floor that is not 0.
    floor = 1 / len(target.class_names) if settings.dstm.task == "classification" else 0.0
    of_real = float(np.mean([figures["main"] for figures in scores["real"]]))
    table = Table("trained on", "figure", "on test", "per seed", "share of the way to real")
    shares = {}
    for figure in ("main", *chosen.show):
        for name, found in scores.items():
            values = [figures.get(figure, math.nan) for figures in found]
            mean = float(np.mean(values))
            each = " ".join(f"{value:.3f}" for value in values)
            share = (mean - floor) / (of_real - floor) if figure == "main" else math.nan
            if figure == "main":
                shares[name] = share
            shown = f"{share:.2f}" if figure == "main" else ""
            table.add_row(name, figure, f"{mean:.3f}", each, shown)
    console.print(table)
    result = {
        "images": [len(part) for part in shaped] or chosen.images,
        "figures": scores,
        "share_of_the_way_to_real": shares,
        "audit_agreement": agreements,
    }
    write_json(chosen.output, result)
    console.print(f"Figures: {chosen.output}")


if __name__ == "__main__":
    main()
