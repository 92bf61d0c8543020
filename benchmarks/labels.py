"""How well does the audit detect bad pixel labels? Measured where the true labels are known.

    python -m benchmarks.labels --seeds 3

Per seed an ensemble is trained on the target's audit split, as in sessions, and judges images whose
labels have a known score: rendered scenes in the style of the target and of the generator, with
corrupted labels (`eval.corruption`), and, with --weights, images that an MTDM drew with labels,
scored by a network trained on many rendered scenes of the generator's style. Reported is, for each
measure and for their combination, the AUROC of bad labels: the fifth with the lowest true scores.
Ensembles and scenes are kept under HOME/cache, so that a second run is short.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.config.sections import GeneratorSettings, TargetSettings
from agent.config.settings import Settings
from agent.loop.components import Components
from benchmarks.harness import Benchmark, options, trained_once
from eval.corruption import corrupt
from eval.metrics import auroc
from memory.records import digest
from tools.data.drawn import ImageRequest
from tools.data.samples import Dense, Samples
from tools.generators import Generator
from tools.labelers.dense_audit import DenseAudit, true_scores
from tools.streets import CLASS_NAMES
from tools.targets import Target
from tools.tasks import Model, Task

AUDIT = (
    "audit.method=dense",
    "audit.members=2",
    "audit.train={task: multi, model: unet, steps: 500, batch_size: 16, learning_rate: 0.003, "
    "balance_classes: true, label_smoothing: 0}",
)
"""Settings of the measured audit, as in the preset `streets`; --set overrides them."""

BAD_SHARE = 0.2
REFERENCE_STEPS = 600
_BATCH = 32

Measures = dict[str, float]


def measure(
    audit: DenseAudit, samples: Samples, confidence: Dense, true: Mapping[str, NDArray[np.float64]]
) -> Measures:
    """Return the AUROC of bad labels by "kind: measure", and mean expected and true scores.

    Args:
        audit: The measured audit.
        samples: Images with the labels to judge.
        confidence: Confidence of the generator in its labels, by kind.
        true: Scores of the labels against the truth, by kind, (n,).
    """
    measures: Measures = {}
    evidence = audit.evidence(samples, confidence)
    expected = audit.scores(evidence)
    for kind, of_kind in evidence.items():
        bad = _bad(true[kind])
        for name, values in of_kind.items():
            measures[f"{kind}: {name}"] = auroc(bad, values).value
        measures[f"{kind}: combined"] = auroc(bad, -expected[kind]).value
        measures[f"{kind}: true score"] = float(np.mean(true[kind]))
        measures[f"{kind}: expected score"] = float(np.mean(expected[kind]))
    together = np.mean([true[kind] for kind in expected], axis=0)
    overall = np.mean([*expected.values()], axis=0)
    measures["all: combined"] = auroc(_bad(together), -overall).value
    weights, kept = audit.weigh(overall, samples)
    measures["all: kept"] = float(kept.mean())
    measures["all: true score, weighed"] = float(np.average(together, weights=weights))
    measures["all: true score"] = float(together.mean())
    return measures


def with_faults(audit: DenseAudit, samples: Samples, seed: int) -> Measures:
    """Return the figures on scenes with corrupted labels."""
    labels = {kind: samples.labels[kind] for kind in audit.task.needs}
    wrong = corrupt(labels, np.random.default_rng(seed))
    true = {part.name: true_scores(part, wrong[part.name], samples) for part in audit.task.parts}
    return measure(audit, replace(samples, labels=wrong), {}, true)


def of_drawn(audit: DenseAudit, samples: Samples, confidence: Dense, reference: Model) -> Measures:
    """Return the figures on drawn images, with predictions of a reference network as truth."""
    task = audit.task
    predictions = task.predict(reference, samples.images)
    true = {}
    for part, predicted in task.predictions(predictions):
        truth = replace(samples, labels={part.name: predicted})
        true[part.name] = part.scores(samples.labels[part.name], truth)
    return measure(audit, samples, confidence, true)


def drawn(
    generator: Generator, target: Target, asked: Samples, seed: int
) -> tuple[Samples, dict[str, NDArray[np.float32]]]:
    """Return one image for a caption of each sample, with its labels, and their confidence."""
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
    """Return a network trained on many rendered scenes, cached under HOME/cache."""
    train = settings.audit.train.model_copy(
        update={"steps": REFERENCE_STEPS, "batch_size": 16, "seed": 1000}
    )
    key = digest([train.to_json(), len(samples), samples.ids[0]])
    folder = settings.home / "cache" / f"reference-{key}"
    return trained_once(folder, samples, task, len(CLASS_NAMES), train, device)


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, preset="streets-multi")
    parser.add_argument("--scenes", type=int, default=200, help="scenes per seed and setting")
    parser.add_argument("--weights", help="MTDM whose images are judged, too")
    parser.add_argument("--rendered", type=int, default=2000, help="scenes of the reference net")
    chosen = parser.parse_args()
    bench = Benchmark(chosen, AUDIT)
    settings = bench.settings
    n_scenes = chosen.scenes * (chosen.first_seed + chosen.seeds)
    sizes = {"generator": n_scenes, "audit": chosen.rendered}
    source = TargetSettings(name="streets", options={"style": "plain", "sizes": sizes})
    drawing = GeneratorSettings(name="mtdm", weights=chosen.weights or "", steps=12)
    plain = Components(settings.model_copy(update={"target": source, "generator": drawing}))

    def figures(seed: int) -> dict[str, Measures]:
        train = settings.audit.train.model_copy(update={"seed": 100 * seed})
        seeded = settings.audit.model_copy(update={"train": train})
        audit = Components(settings.model_copy(update={"audit": seeded})).judge
        assert isinstance(audit, DenseAudit)
        rows = range(seed * chosen.scenes, (seed + 1) * chosen.scenes)
        near, far = (
            components.target.split("generator").take(rows)
            for components in (bench.components, plain)
        )
        measures = {
            "faults, target's look": with_faults(audit, near, seed),
            "faults, generator's look": with_faults(audit, far, seed),
        }
        if chosen.weights:
            rendered = plain.target.split("audit")
            reference = reference_net(rendered, audit.task, settings, plain.device)
            samples, confidence = drawn(plain.generator, plain.target, far, seed)
            measures["drawn by the MTDM"] = of_drawn(audit, samples, confidence, reference)
        return measures

    bench.means(["labels", "figure"], bench.seeds(figures))


def _bad(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return (scores <= np.quantile(scores, BAD_SHARE)).astype(np.int64)


if __name__ == "__main__":
    main()
