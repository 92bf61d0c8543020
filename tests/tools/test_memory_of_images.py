"""What drawing, training, assessing, showing and exporting hold does not grow with the images.

As a program, with a folder and a number of images, it prints the most memory that it had, in MB; a
third argument says how much is kept of files and decoded images, as a power of 2 of bytes.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from agent.autonomous.thumbnails import prompt_thumbnails
from agent.experiments.image_cache import ImageCache
from memory.records import Batch, Plan, PromptSpec
from tools.data import stored_images
from tools.data.drawn import Drawn, ImageRequest
from tools.data.export import FORMATS, Format, Source, export
from tools.data.samples import Dense, Samples, parts_of
from tools.data.shards import read_shards
from tools.data.stored_images import StoredImages
from tools.generate_batch import Workshop, generate_batch
from tools.generators import CountsWords
from tools.models.criteria import load_dstm, measure_gradients
from tools.settings import DstmSettings
from tools.train_dstm import train_dstm

CLASSES = ("dark", "bright")
N_PER_PROMPT, N_PER_SHARD = 25, 25


class Noise(CountsWords):
    """A generator of noisy grey, 64x64, with regions; it costs next to nothing."""

    name = identity = "noise"

    def __init__(self) -> None:
        self._noise = np.random.default_rng(0).normal(100, 8, (N_PER_PROMPT, 1, 64, 64))

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        images = np.stack([self._noise[r.index] for r in requests]).astype(np.uint8)
        return Drawn(images, {"segmentation": (images[:, 0] > 100).astype(np.uint8)})


class Lenient:
    """Weighs an image by its brightness."""

    def verify(
        self, samples: Samples, confidence: Dense
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        weights = (samples.images.mean((1, 2, 3)) / 100).clip(0, 1)
        return weights, weights, weights >= 1


def draw(folder: Path, n_images: int) -> Batch:
    prompts = [
        PromptSpec(id=f"r001p{i:05d}", text="a cell", class_name=CLASSES[i % 2], count=N_PER_PROMPT)
        for i in range(n_images // N_PER_PROMPT)
    ]
    plan = Plan(round=1, author="test", prompts=tuple(prompts))
    return generate_batch(plan, folder, 0, Workshop(Noise(), Lenient(), CLASSES), N_PER_SHARD)


def use(folder: Path, n_images: int, steps: int, forms: Sequence[Format]) -> None:
    """Draw, weigh, learn from, assess, show and export images."""
    batch = draw(folder, n_images)
    shards = [folder / shard.file for shard in batch.shards]
    settings = DstmSettings(steps=steps, batch_size=32, augment=False)
    training = train_dstm(1, folder, [Path(s.file) for s in batch.shards], CLASSES, settings)
    few = read_shards(shards[:1])
    measure_gradients(load_dstm(folder / training.model, "cpu"), shards, few)
    prompt_thumbnails(folder, batch)
    source = Source("s", shards, CLASSES, CLASSES, "noise", "t", "none")
    for form in forms:
        export(source, form, folder / form)


def test_images_are_kept_as_far_as_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = draw(tmp_path, 200)
    shards = [tmp_path / shard.file for shard in batch.shards]
    whole = read_shards(shards)
    rows = np.random.default_rng(0).integers(0, 200, 300)
    wanted = whole.take(rows)
    n_read = []
    for kept in (2**28, 150_000, 1):
        monkeypatch.setattr(stored_images, "KEPT_BYTES", kept)
        stored = StoredImages(shards)
        found = stored.take(rows)
        assert (found.images == wanted.images).all()
        assert (found.labels["segmentation"] == wanted.labels["segmentation"]).all()
        n_read.append(stored.n_read)
    assert n_read[0] == len(shards) < n_read[1] < n_read[2]


def test_memory_does_not_grow_with_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_images, "KEPT_BYTES", 200_000)
    use(tmp_path / "first", 50, 2, ["webdataset"])
    peaks = []
    for n_images in (100, 300):
        tracemalloc.start()
        use(tmp_path / str(n_images), n_images, 2, ["webdataset"])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # An image and its labels have 8192 bytes. What is known of each without its pixels remains.
    assert (peaks[1] - peaks[0]) / 200 < 2000
    assert pa.total_allocated_bytes() < 2**20


def test_memory_of_a_comparisons_pool_does_not_grow_with_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_images, "KEPT_BYTES", 50_000)
    session = SimpleNamespace(images_per_prompt=N_PER_PROMPT, shard_size=N_PER_SHARD)
    vocabulary = SimpleNamespace(caption=lambda attributes, words: "a cell")
    parts: Any = SimpleNamespace(
        settings=SimpleNamespace(session=session),
        target=SimpleNamespace(class_names=CLASSES, vocabulary=vocabulary),
        generator=Noise(),
        judge=Lenient(),
    )
    peaks = []
    for n_images in (50, 100, 250):
        prompts = [
            PromptSpec(id=str(i), text="?", class_name="dark", attributes={"n": str(i)}, count=50)
            for i in range(n_images // 50)
        ]
        tracemalloc.start()
        images = ImageCache(parts, tmp_path / str(n_images), 0, []).take(prompts, Counter())
        assert sum(len(part) for part in parts_of(images, N_PER_SHARD)) == n_images
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 150 < 2000


@pytest.mark.slow
def test_100_000_images_fit_into_two_gigabytes(tmp_path: Path) -> None:
    few, many = 2000, 8000

    def peak_mb(n_images: int) -> float:
        command = [sys.executable, __file__, str(tmp_path / str(n_images)), str(n_images), "23"]
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    at_few = peak_mb(few)
    # With so little kept both are at its limit: what else is known of an image grows.
    grown_mb = (peak_mb(many) - at_few) / (many - few)
    kept_mb = 2 * stored_images.KEPT_BYTES / 2**20
    assert at_few + 100_000 * grown_mb + kept_mb < 2000


if __name__ == "__main__":
    if len(sys.argv) > 3:
        stored_images.KEPT_BYTES = 2 ** int(sys.argv[3])
    use(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[2]) // 100, FORMATS)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # noqa: T201
