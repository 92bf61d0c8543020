"""Images of many shards, of which only the drawn ones are read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from memory.errors import DataError
from memory.files import write_bytes
from tools import tasks
from tools.data.samples import Samples, concatenate
from tools.data.selected import write_choice
from tools.data.shards import read_shards, write_shard
from tools.data.stored_images import StoredImages, contents
from tools.settings import TrainSettings
from tools.train_dstm import train_dstm, train_model

CLASSES = ["plain", "square"]
TASK = tasks.build("classification")
SHORT = TrainSettings(steps=3, batch_size=4)


def shard(folder: Path, number: int, size: int = 8, dense: bool = False) -> Path:
    """Write the shard of a round with four images of noise."""
    rng = np.random.default_rng(number)
    samples = Samples(
        images=rng.integers(0, 256, (4, 1, size, size), dtype=np.uint8),
        classes=np.array([0, 1, 0, 1]),
        attributes=[{"light": str(number)}] * 4,
        ids=[f"r{number}p{i}" for i in range(4)],
        weights=rng.random(4),
    )
    if dense:
        ids = rng.integers(0, 3, (4, size, size), dtype=np.uint8)
        samples = replace(samples, labels={"segmentation": ids})
    path = folder / "rounds" / f"{number:03d}" / "data-00000.parquet"
    write_bytes(path, write_shard(samples, ["x"] * 4, ["p"] * 4, range(4), CLASSES))
    return path


def same(found: Samples, wanted: Samples) -> None:
    np.testing.assert_array_equal(found.images, wanted.images)
    np.testing.assert_array_equal(found.classes, wanted.classes)
    np.testing.assert_array_equal(found.weights, wanted.weights)
    assert (list(found.ids), list(found.attributes)) == (list(wanted.ids), list(wanted.attributes))
    assert found.labels.keys() == wanted.labels.keys()
    for kind, values in found.labels.items():
        np.testing.assert_array_equal(values, wanted.labels[kind])


@pytest.mark.parametrize("dense", [False, True])
def test_what_is_drawn_is_what_is_stored(tmp_path: Path, dense: bool) -> None:
    shards = [shard(tmp_path, number, dense=dense) for number in range(3)]
    whole, stored = read_shards(shards), StoredImages(shards)
    rows = [11, 0, 5, 5, 4]
    same(stored.take(rows), whole.take(rows))
    assert (len(stored), stored.image_shape) == (12, (1, 8, 8))
    np.testing.assert_array_equal(stored.weights, whole.weights)
    np.testing.assert_array_equal(stored.classes, whole.classes)


def test_labels_that_not_all_shards_have_are_left_out(tmp_path: Path) -> None:
    shards = [shard(tmp_path, 0, dense=True), shard(tmp_path, 1)]
    assert StoredImages(shards).take([0]).labels == {}


def test_what_a_selection_left_out_is_not_there(tmp_path: Path) -> None:
    shards = [shard(tmp_path, number) for number in range(2)]
    write_choice(shards[0].parent, "random", [f"r0p{i}" for i in range(4)], [1, 3])
    stored = StoredImages(shards)
    wanted = concatenate([read_shards(shards[:1]).take([1, 3]), read_shards(shards[1:])])
    same(stored.take(range(6)), wanted)
    assert len(stored) == 6


def test_some_of_the_images_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    shards = [shard(tmp_path, number, dense=True) for number in range(3)]
    stored, whole = StoredImages(shards), read_shards(shards)
    some = stored.only([9, 2, 4])
    same(stored.take([0]), whole.take([0]))
    same(some.take([0, 1, 2]), whole.take([9, 2, 4]))
    assert some.ids == [whole.ids[row] for row in (9, 2, 4)]
    np.testing.assert_array_equal(some.classes, whole.classes[[9, 2, 4]])


def test_a_training_reads_the_shards_that_it_draws_from(tmp_path: Path) -> None:
    shards = [shard(tmp_path, number) for number in range(40)]
    stored = StoredImages(shards)
    model = train_model(stored, TASK, 2, SHORT)
    assert 0 < stored.n_read <= SHORT.steps * SHORT.batch_size
    whole = train_model(read_shards(shards), TASK, 2, SHORT)
    assert model[1] == whole[1]
    for one, other in zip(model[0].parameters(), whole[0].parameters(), strict=True):
        assert bool((one == other).all())


def test_a_job_takes_as_much_space_in_any_round(tmp_path: Path) -> None:
    shards = [shard(tmp_path, number) for number in range(30)]
    sizes = []
    for n in (10, 30):
        training = train_dstm(n, tmp_path, shards[:n], CLASSES, SHORT)
        sizes.append((tmp_path / "jobs" / training.job_id / "job.json").stat().st_size)
    assert sizes[0] == sizes[1]


def test_a_shard_that_changed_is_read_again(tmp_path: Path) -> None:
    path = shard(tmp_path, 1)
    before = contents(path)
    assert contents(path) is before
    path.write_bytes(shard(tmp_path, 2).read_bytes())
    os.utime(path, ns=(1, 1))
    assert contents(path).ids == ("r2p0", "r2p1", "r2p2", "r2p3")


def test_shards_that_do_not_fit_are_named(tmp_path: Path) -> None:
    shards = [shard(tmp_path, 1), shard(tmp_path, 2, size=16)]
    with pytest.raises(DataError, match=r"002/data-00000\.parquet have the shape"):
        StoredImages(shards)
    with pytest.raises(DataError, match="no samples"):
        StoredImages([])
    shards[1].write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"002/data-00000\.parquet is missing or damaged"):
        StoredImages(shards)
