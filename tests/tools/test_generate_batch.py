from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from memory.records import Batch, Plan, PromptSpec
from tools import generators
from tools.data.drawn import Drawn, ImageRequest
from tools.data.samples import Dense, Samples
from tools.data.shards import read_shards
from tools.generate_batch import Workshop, generate_batch
from tools.generators import Generator

PLAN = Plan(
    round=3,
    author="test",
    prompts=(
        PromptSpec(id="r003p00", text="a broken cell", class_name="defective", count=5),
        PromptSpec(id="r003p01", text="an intact cell", class_name="functional", count=4),
    ),
)


class Counting:
    """A generator that counts, and can be made to fail after some images."""

    name = "toy"
    identity = "toy"
    max_tokens = 64

    def __init__(self, fail_after: int = 10**9) -> None:
        self.n_drawn = 0
        self._fail_after = fail_after
        self._toy: Generator = generators.build("toy", (1, 64, 64))

    def count_tokens(self, text: str) -> int:
        return 1

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        if self.n_drawn >= self._fail_after:
            raise KeyboardInterrupt
        self.n_drawn += len(requests)
        return self._toy.draw(requests)


class Half:
    """A verifier that keeps functional cells alone."""

    def verify(
        self, samples: Samples, confidence: Dense
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        kept = samples.classes == 0
        return kept * 0.9, np.where(kept, 1.0, 0.25), kept


def generate(folder: Path, generator: Counting) -> Batch:
    classes = ("functional", "defective")
    return generate_batch(PLAN, folder, 0, Workshop(generator, Half(), classes), shard_size=4)


def test_batch_has_labels_weights_and_quality(tmp_path: Path) -> None:
    batch = generate(tmp_path, Counting())
    assert [s.n_images for s in batch.shards] == [4, 4, 1]
    assert [(q.prompt_id, q.n_made, q.n_kept) for q in batch.quality] == [
        ("r003p00", 5, 0),
        ("r003p01", 4, 4),
    ]
    assert (batch.n_made, batch.n_kept) == (9, 4)
    stored = read_shards([tmp_path / s.file for s in batch.shards])
    assert stored.classes.tolist() == [1] * 5 + [0] * 4
    assert stored.weights.tolist() == [0.25] * 5 + [1.0] * 4


def test_interrupted_batch_draws_only_what_is_missing(tmp_path: Path) -> None:
    broken = Counting(fail_after=4)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "broken", broken)
    again = Counting()
    resumed = generate(tmp_path / "broken", again)
    assert (broken.n_drawn, again.n_drawn) == (4, 5)
    straight = generate(tmp_path / "straight", Counting())
    assert [s.sha256 for s in resumed.shards] == [s.sha256 for s in straight.shards]
    third = Counting()
    assert generate(tmp_path / "broken", third) == resumed
    assert third.n_drawn == 0


def test_lost_shard_is_made_again(tmp_path: Path) -> None:
    first = generate(tmp_path, Counting())
    (tmp_path / first.shards[1].file).unlink()
    again = Counting()
    assert generate(tmp_path, again) == first
    assert again.n_drawn == 4
