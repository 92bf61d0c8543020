"""Do the labels of an MTDM match its images, and can a DSTM learn from them?

    python -m benchmarks.mtdm --preset streets --seeds 3

Everything is measured against rendered scenes that the MTDM has not seen, of the distribution it
was trained on. Networks are trained once and kept under HOME/bench; a second run resumes.

agreement: score of networks trained on rendered scenes on drawn images, against the labels drawn
with them, relative to their score on rendered test scenes. learning: score of DSTMs trained on
drawn images alone, relative to DSTMs trained on as many rendered scenes, both on rendered test
scenes. control: accuracy of attribute classifiers, trained on rendered scenes, against the prompts.
--denoising prints only the error of denoising rendered scenes, in a minute, to compare networks.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from agent.loop.components import Components
from benchmarks.harness import Benchmark, Figures, options, trained_once
from memory.errors import SettingsError
from memory.records import digest
from tools import tasks
from tools.data.drawn import ImageRequest, join
from tools.data.samples import Samples, content_digest
from tools.data.shards import read_shards, write_shard
from tools.diffusion.denoising import to_channels
from tools.diffusion.pipeline import MTDMPipeline, encode_prompts
from tools.generators import Generator
from tools.pretraining.card import BATCH_SIZE
from tools.settings import TrainSettings
from tools.targets import Target
from tools.tasks import Model, Slicing

DENSE = {"segmentation": "miou", "depth": "abs_rel"}
"""Tasks and their figures; a lower abs_rel is better."""

SIZES = {"audit": 5000, "feedback": 1000, "test": 800}
_SHARD, _BATCH = 50, 32
NOISE_LEVELS = (100, 300, 500, 700, 900)


class Study:
    """Target, generator and settings of one preset, and the measurement of its figures."""

    def __init__(self, bench: Benchmark) -> None:
        self.settings, self._console = bench.settings, bench.console
        source = self.settings.pretrain_target or self.settings.target
        sizes = {**_mapping(source.options.get("sizes")), **SIZES}
        source = source.model_copy(update={"options": {**source.options, "sizes": sizes}})
        components = Components(self.settings.model_copy(update={"target": source}))
        self.target: Target = components.target
        self.device = components.device
        self.folder = self.settings.home / "bench"
        self.generator: Generator = components.bare_generator

    def drawn(self, n_images: int, seed: int) -> Samples:
        """Return images of the MTDM for the captions of `n_images` rendered scenes."""
        rows = np.random.default_rng(seed).permutation(len(self.target.split("feedback")))
        asked = self.target.split("feedback").take(rows[:n_images])
        folder = self.folder / f"drawn-{digest([self.generator.identity, n_images, seed])}"
        paths = []
        for start in range(0, n_images, _SHARD):
            paths.append(folder / f"{start:06d}.parquet")
            if paths[-1].exists():
                continue
            part = asked.take(range(start, min(start + _SHARD, n_images)))
            samples, texts = self._draw(part, seed, start)
            ids = [f"seed-{seed}"] * len(texts)
            folder.mkdir(parents=True, exist_ok=True)
            shard = write_shard(samples, texts, ids, range(len(texts)), self.target.class_names)
            paths[-1].write_bytes(shard)
            self._console.print(f"seed {seed}: {start + len(texts)} of {n_images} images drawn")
        return read_shards(paths)

    def _draw(self, scenes: Samples, seed: int, first: int) -> tuple[Samples, list[str]]:
        """Return an image for a caption of each scene, and the captions.

        first: Index of the first image.
        """
        rng = random.Random(f"{seed} {first}")
        texts = [self.target.vocabulary.caption(named, rng) for named in scenes.attributes]
        requests = [ImageRequest(text, "card", first + i, seed) for i, text in enumerate(texts)]
        drawn = join(
            [
                self.generator.draw(requests[start : start + BATCH_SIZE])
                for start in range(0, len(requests), BATCH_SIZE)
            ]
        )
        ids = [f"card-{first + i:04d}" for i in range(len(texts))]
        return (
            Samples(drawn.images, scenes.classes, scenes.attributes, ids, labels=drawn.labels),
            texts,
        )

    def learnt(self, samples: Samples, names: Sequence[str], train: TrainSettings) -> Model:
        """Return a model trained on samples, loaded from disk if it exists."""
        key = [content_digest(samples), list(names), train.to_json()]
        folder = self.folder / f"{train.task}-{digest(key)}"
        task = tasks.build(train.task)
        return trained_once(folder, samples, task, len(names), train, self.device)

    def dense_settings(self, task: str, seed: int, steps: int) -> TrainSettings:
        """Return the preset's settings of a DSTM for another task, seed and number of steps."""
        changes = {"task": task, "seed": seed, "steps": steps}
        return self.settings.dstm.model_copy(
            update={**changes, "balance_classes": task == "segmentation"}
        )

    def score(self, model: Model, task: str, samples: Samples) -> float:
        """Return a model's figure of `DENSE` on samples."""
        built = tasks.build(task)
        names = self.target.pixel_classes
        predictions = built.predict(model, samples.images)
        report = built.report(predictions, samples, names, 0, "bench", Slicing())
        return report.metrics[DENSE[task]].value

    def control(self, drawn: Samples, seed: int) -> dict[str, dict[str, float]]:
        """Return the accuracy of attribute classifiers on rendered and on drawn images."""
        rendered, test = self.target.split("audit"), self.target.split("test")
        task = tasks.build("classification")
        figures = {}
        for key, values in self.target.vocabulary.attributes.items():
            names = list(values)
            train = TrainSettings(seed=seed, steps=400)
            model = self.learnt(_as_classes(rendered, key, names), names, train)
            accuracy = {}
            for where, samples in (("rendered", test), ("drawn", drawn)):
                predicted = task.predict(model, samples.images).argmax(1)
                right = predicted == _as_classes(samples, key, names).classes
                accuracy[where] = float(right.astype(float).mean())
            ratio = accuracy["drawn"] / accuracy["rendered"]
            figures[f"control {key}"] = accuracy | {"ratio": ratio}
        return figures

    def denoising(self, n_images: int = 96) -> dict[int, dict[str, float]]:
        """Return the MTDM's error on noisy rendered scenes, see `denoising_error`."""
        pipeline = getattr(self.generator, "pipeline", None)
        if pipeline is None:
            raise SettingsError(
                f"The generator {self.settings.generator.name!r} is no diffusion pipeline. "
                "--denoising needs the generator mtdm."
            )
        test = self.target.split("test").take(range(n_images))
        rng = random.Random(0)
        texts = [self.target.vocabulary.caption(a, rng) for a in test.attributes]
        return denoising_error(pipeline, test, texts)

    def figures(self, n_images: int, seed: int, steps: int) -> Figures:
        """Return all figures of one seed."""
        names = self.target.pixel_classes
        drawn = self.drawn(n_images, seed)
        rendered = self.target.split("feedback").take(range(n_images))
        test, training = self.target.split("test"), self.target.split("audit")
        figures: dict[str, Mapping[str, float]] = {}
        for task in DENSE:
            reference = self.learnt(training, names, self.dense_settings(task, seed, 3 * steps))
            on_test, on_drawn = (self.score(reference, task, s) for s in (test, drawn))
            pupils = [
                self.learnt(s, names, self.dense_settings(task, seed, steps))
                for s in (rendered, drawn)
            ]
            of_rendered, of_drawn = (self.score(pupil, task, test) for pupil in pupils)
            figures[task] = {
                "reference on rendered": on_test,
                "reference on drawn": on_drawn,
                "agreement": on_drawn / on_test,
                "trained on rendered": of_rendered,
                "trained on drawn": of_drawn,
                "learning": of_drawn / of_rendered,
            }
        return figures | self.control(drawn, seed)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _as_classes(samples: Samples, key: str, names: Sequence[str]) -> Samples:
    """Return samples with an attribute's value as class and without pixel labels."""
    classes = np.array([names.index(a[key]) for a in samples.attributes], dtype=np.int64)
    return replace(samples, classes=classes, labels={})


@torch.inference_mode()
def denoising_error(
    pipeline: MTDMPipeline,
    samples: Samples,
    texts: Sequence[str],
    levels: Sequence[int] = NOISE_LEVELS,
) -> dict[int, dict[str, float]]:
    """Return the mean squared error of the clean image and of its labels, by noise level.

    Distinguishes two networks or trainings within minutes, long before drawn images do. Errors are
    of whitened values, so predicting the mean gives about 1. The noise is the same for every
    pipeline.

    Args:
        pipeline: Pipeline whose network is measured.
        samples: Images with labels; unknown labels are ignored.
        texts: Caption of each sample.
        levels: Times of the scheduler, 0 (little noise) to 999.

    Returns:
        Errors of "image" and of "labels" (all kinds together), by level.
    """
    errors: dict[int, dict[str, float]] = {}
    for level in levels:
        sums = {"image": np.zeros(2), "labels": np.zeros(2)}
        for start in range(0, len(samples), _BATCH):
            rows = range(start, min(start + _BATCH, len(samples)))
            part = samples.take(rows)
            x, weight = to_channels(pipeline, part.images, part.labels)
            generator = torch.Generator("cpu").manual_seed(level * 1_000_003 + start)
            times = torch.full((len(x),), level)
            noise = torch.randn(x.shape, generator=generator)
            noisy = pipeline.add_noise(x, noise, pipeline.levels(times))
            states, mask = encode_prompts([texts[row] for row in rows])
            inputs: Any = (v.to(pipeline.device) for v in (noisy, times, states, mask))
            clean = pipeline.predict(*inputs).float().cpu()
            error = (weight * (clean - x) ** 2).sum((0, 2, 3)), weight.sum((0, 2, 3))
            n = pipeline.n_image_channels
            for kind, channels in (("image", slice(0, n)), ("labels", slice(n, None))):
                sums[kind] += [float(v[channels].sum()) for v in error]
        errors[level] = {k: float(s[0] / s[1]) for k, s in sums.items() if s[1] > 0}
    return errors


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, preset="streets")
    parser.add_argument("--images", type=int, default=SIZES["feedback"])
    parser.add_argument("--steps", type=int, default=400, help="steps of a DSTM; references: 3x")
    parser.add_argument("--denoising", action="store_true", help="print only the denoising error")
    chosen = parser.parse_args()
    bench = Benchmark(chosen)
    study = Study(bench)
    if chosen.denoising:
        errors = {f"noise level {k}": v for k, v in study.denoising().items()}
        bench.means(["mean squared error, whitened", "of"], [errors])
        return
    seeds = bench.seeds(lambda seed: study.figures(chosen.images, seed, chosen.steps))
    bench.means(["task or attribute", "figure"], seeds)


if __name__ == "__main__":
    main()
