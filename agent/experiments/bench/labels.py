"""How well labels of pixels are judged without knowing the truth, where the truth is known.

    python -m agent.experiments.bench.labels --seeds 3

Per seed an ensemble is trained on the target's audit split, as sessions do it, and judges pictures
whose labels have a known score: rendered scenes of the target's look and of the generator's, with
labels made wrong (`eval.corruption`), and, with --weights, images that an MTDM drew with their
labels, against a net trained on many rendered scenes of the generator's look. Reported is, for each
measure and for the score that combines them, the AUROC of bad labels: the fifth of the lowest true
scores. Ensembles and scenes are kept under HOME/cache, so that a second run is short.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from agent.config.settings import GeneratorSettings, Settings, TargetSettings, load_settings
from agent.loop.components import Components
from eval.corruption import corrupt
from eval.metrics import auroc
from memory.files import write_json
from memory.records import digest
from tools.data.drawn import ImageRequest
from tools.data.samples import Dense, Samples
from tools.generators import Generator
from tools.labelers.dense_audit import DenseAudit, true_scores
from tools.models.dstm_file import load_model, save_model
from tools.streets import CLASS_NAMES
from tools.targets import Target
from tools.tasks import Model, Task
from tools.train_dstm import train_model

AUDIT = (
    "audit.method=dense",
    "audit.members=2",
    "audit.train={task: multi, model: unet, steps: 500, batch_size: 16, learning_rate: 0.003, "
    "balance_classes: true, label_smoothing: 0}",
)
"""The settings of the audit that is measured, as in the preset `streets`; --set changes them."""

BAD_SHARE = 0.2
REFERENCE_STEPS = 600
_BATCH = 32

Figures = dict[str, float]


def figures(
    audit: DenseAudit, samples: Samples, confidence: Dense, true: Mapping[str, NDArray[np.float64]]
) -> Figures:
    """Return the AUROC of bad labels by "kind: measure", and the mean of scores said and true.

    samples: with the labels to judge; true: their scores against the truth by kind, (n,).
    """
    found: Figures = {}
    evidence = audit.evidence(samples, confidence)
    said = audit.scores(evidence)
    for kind, measures in evidence.items():
        bad = _bad(true[kind])
        for name, values in measures.items():
            found[f"{kind}: {name}"] = auroc(bad, values).value
        found[f"{kind}: combined"] = auroc(bad, -said[kind]).value
        found[f"{kind}: true score"] = float(np.mean(true[kind]))
        found[f"{kind}: expected score"] = float(np.mean(said[kind]))
    together = np.mean([true[kind] for kind in said], axis=0)
    overall = np.mean([*said.values()], axis=0)
    found["all: combined"] = auroc(_bad(together), -overall).value
    weights, kept = audit.weigh(overall, samples)
    found["all: kept"] = float(kept.mean())
    found["all: true score, weighed"] = float(np.average(together, weights=weights))
    found["all: true score"] = float(together.mean())
    return found


def with_faults(audit: DenseAudit, samples: Samples, seed: int) -> Figures:
    """Return the figures on scenes whose labels are made wrong."""
    labels = {kind: samples.labels[kind] for kind in audit.task.needs}
    wrong = corrupt(labels, np.random.default_rng(seed))
    true = {part.name: true_scores(part, wrong[part.name], samples) for part in audit.task.parts}
    judged = replace(samples, labels=wrong)
    return figures(audit, judged, {}, true)


def of_drawn(audit: DenseAudit, samples: Samples, confidence: Dense, reference: Model) -> Figures:
    """Return the figures on drawn images, against what a reference net says of them."""
    task = audit.task
    said = task.predict(reference, samples.images)
    true = {}
    for part, own in task.predictions(said):
        truth = replace(samples, labels={part.name: own})
        true[part.name] = part.scores(samples.labels[part.name], truth)
    return figures(audit, samples, confidence, true)


def drawn(
    generator: Generator, target: Target, asked: Samples, seed: int
) -> tuple[Samples, dict[str, NDArray[np.float32]]]:
    """Return one image for a caption of each sample, with its labels, and how sure they are."""
    rng = random.Random(seed)
    texts = [target.vocabulary.caption(attributes, rng) for attributes in asked.attributes]
    requests = [ImageRequest(text, "bench", i, seed) for i, text in enumerate(texts)]
    parts = [generator.draw(requests[i : i + _BATCH]) for i in range(0, len(requests), _BATCH)]
    kinds, sure = parts[0].labels.keys(), parts[0].confidence.keys()
    samples = replace(
        asked,
        images=np.concatenate([part.images for part in parts]),
        labels={kind: np.concatenate([part.labels[kind] for part in parts]) for kind in kinds},
    )
    return samples, {k: np.concatenate([part.confidence[k] for part in parts]) for k in sure}


def reference_net(samples: Samples, task: Task, settings: Settings, device: str) -> Model:
    """Return a net trained on many rendered scenes, from HOME/cache where it is there already."""
    train = settings.audit.train.model_copy(
        update={"steps": REFERENCE_STEPS, "batch_size": 16, "seed": 1000}
    )
    key = digest([train.to_json(), len(samples), samples.ids[0]])
    folder = settings.home / "cache" / f"reference-{key}"
    if not (folder / "model.json").exists():
        model, _, _ = train_model(samples, task, len(CLASS_NAMES), train, device)
        save_model(folder, model, {"task": task.name})
    return load_model(folder, device)[0]


def main() -> None:
    """Run the benchmark and write its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--preset", default="streets-multi")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=200, help="judged, per seed and setting")
    parser.add_argument("--weights", help="of an MTDM whose images are judged, too")
    parser.add_argument("--rendered", type=int, default=2000, help="scenes for the reference net")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--output", type=Path, default=Path("bench-labels.json"))
    chosen = parser.parse_args()
    settings = load_settings(chosen.preset, [*AUDIT, *chosen.set], os.environ)
    console = Console(highlight=False)
    components = Components(settings)
    target, device = components.target, components.device
    sizes = {"generator": chosen.scenes * chosen.seeds, "audit": chosen.rendered}
    source = TargetSettings(name="streets", options={"style": "plain", "sizes": sizes})
    drawing = GeneratorSettings(name="mtdm", weights=chosen.weights or "", steps=12)
    of_drawing = Components(settings.model_copy(update={"target": source, "generator": drawing}))
    plain = of_drawing.target
    generator = of_drawing.generator if chosen.weights else None

    found: dict[str, list[Figures]] = {}
    for seed in range(chosen.seeds):
        train = settings.audit.train.model_copy(update={"seed": 100 * seed})
        seeded = settings.audit.model_copy(update={"train": train})
        audit = Components(settings.model_copy(update={"audit": seeded})).judge
        assert isinstance(audit, DenseAudit)
        rows = range(seed * chosen.scenes, (seed + 1) * chosen.scenes)
        own, other = (t.split("generator").take(rows) for t in (target, plain))
        found.setdefault("faults, target's look", []).append(with_faults(audit, own, seed))
        found.setdefault("faults, generator's look", []).append(with_faults(audit, other, seed))
        if generator is not None:
            reference = reference_net(plain.split("audit"), audit.task, settings, device)
            samples, confidence = drawn(generator, plain, other, seed)
            of_mtdm = of_drawn(audit, samples, confidence, reference)
            found.setdefault("drawn by the MTDM", []).append(of_mtdm)
        write_json(chosen.output, {"scenes": chosen.scenes, "figures": found})
        console.print(f"seed {seed} done")
    for name, seeds in found.items():
        table = Table(name, "mean", "per seed")
        for figure in seeds[0]:
            each = [values[figure] for values in seeds]
            per_seed = " ".join(f"{value:.3f}" for value in each)
            table.add_row(figure, f"{np.mean(each):.3f}", per_seed)
        console.print(table)
    console.print(f"Figures: {chosen.output}")


def _bad(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return (scores <= np.quantile(scores, BAD_SHARE)).astype(np.int64)


if __name__ == "__main__":
    main()
