from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memory.errors import DataError
from tools.data.samples import VOID, Samples
from tools.data.shards import decode_png, encode_png, read_shards, read_table, write_shard
from tools.streets import render


def samples(n: int = 3, channels: int = 1, size: int = 8) -> Samples:
    random = np.random.default_rng(n)
    return Samples(
        images=random.integers(0, 256, (n, channels, size, size), dtype=np.uint8),
        classes=np.arange(n) % 2,
        attributes=[{"wafer": "mono", "where": "left"}, *[{"wafer": "poly"}] * (n - 1)],
        ids=[f"p1-{i:04d}" for i in range(n)],
        weights=np.linspace(0.1, 1, n),
    )


def shard(given: Samples) -> bytes:
    n = len(given)
    return write_shard(given, ["a dark cell"] * n, ["p1"] * n, range(n), ["good", "bad"])


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read(tmp_path: Path, channels: int) -> None:
    parts = [samples(3, channels), samples(2, channels)]
    paths = [tmp_path / f"data-{i}.parquet" for i in range(2)]
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(shard(part))
    found = read_shards(paths)
    assert np.array_equal(found.images[:3], parts[0].images)
    assert np.array_equal(found.images[3:], parts[1].images)
    assert found.classes.tolist() == [0, 1, 0, 0, 1]
    assert found.attributes == [*parts[0].attributes, *parts[1].attributes]
    assert found.ids == [*parts[0].ids, *parts[1].ids]
    assert found.weights.tolist() == [*parts[0].weights, *parts[1].weights]
    tables = [read_table(path) for path in paths]
    assert [name for table in tables for name in table["prompt_id"].to_pylist()] == ["p1"] * 5
    assert {text for table in tables for text in table["text"].to_pylist()} == {"a dark cell"}


def test_the_same_images_give_the_same_bytes() -> None:
    assert shard(samples()) == shard(samples())


def test_the_datasets_library_reads_a_shard(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    given = samples()
    path = tmp_path / "data.parquet"
    path.write_bytes(shard(given))
    rows = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert list(rows.features) == [
        *("image", "label", "text", "prompt_id", "index", "attributes", "weight")
    ]
    assert rows.features["label"].names == ["good", "bad"]
    assert rows[1]["image"].size == (8, 8)
    assert np.array_equal(np.asarray(rows[1]["image"]), given.images[1, 0])
    assert rows[1]["label"] == 1
    assert rows["index"][:] == [0, 1, 2]
    assert rows[0]["attributes"] == '{"wafer": "mono", "where": "left"}'
    assert rows[0]["weight"] == pytest.approx(0.1)


def test_png_is_lossless() -> None:
    for image in samples(channels=3).images:
        assert np.array_equal(decode_png(encode_png(image)), image)


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "foreign"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "data.parquet"
    data = bytearray(shard(samples(20, size=32)))
    if damage == "cut":
        data = data[: len(data) // 2]
    if damage == "flipped":
        data[len(data) // 3] ^= 0xFF
    if damage == "foreign":
        data = bytearray(b"PAR1 not really")
    if damage != "missing":
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"data\.parquet is missing or damaged.*Delete this file"):
        read_shards([path])


def test_shards_of_two_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(shard(samples(size=8)))
    (tmp_path / "b.parquet").write_bytes(shard(samples(size=16)))
    with pytest.raises(DataError, match=r"b\.parquet have the shape \(1, 16, 16\)"):
        read_shards([tmp_path / "a.parquet", tmp_path / "b.parquet"])


def test_no_shard_is_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        read_shards([])


def streets() -> Samples:
    scenes = [render({"light": "night"}, seed) for seed in range(2)]
    labels = {
        kind: np.stack([getattr(scene, kind) for scene in scenes])
        for kind in ("segmentation", "depth", "normals")
    }
    labels["segmentation"][0, :3] = VOID
    labels["depth"][0, :3] = np.nan
    labels["normals"][0, :, :3] = np.nan
    images = np.stack([scene.image for scene in scenes])
    return Samples(images, np.zeros(2, np.int64), [{}, {}], ["a", "b"], labels=labels)


def test_labels_of_pixels_are_kept(tmp_path: Path) -> None:
    given = streets()
    path = tmp_path / "data.parquet"
    path.write_bytes(write_shard(given, [""] * 2, ["p"] * 2, range(2), ["scene"]))
    found = read_shards([path]).labels
    assert np.array_equal(found["segmentation"], given.labels["segmentation"])
    known = np.isfinite(given.labels["depth"])
    assert np.array_equal(np.isfinite(found["depth"]), known)
    assert np.abs(found["depth"] - given.labels["depth"])[known].max() <= 1 / 512
    product = (found["normals"] * given.labels["normals"]).sum(1)
    assert np.array_equal(np.isfinite(product), known)
    assert np.degrees(np.arccos(np.clip(product[known], -1, 1))).max() < 0.7


def test_the_datasets_library_shows_labels_as_pictures(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "data.parquet"
    path.write_bytes(write_shard(streets(), [""] * 2, ["p"] * 2, range(2), ["scene"]))
    rows = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert np.asarray(rows[0]["segmentation"])[:3].max() == VOID
    depth_m = np.asarray(rows[1]["depth"]) / 256
    assert 1 < depth_m.min() < depth_m.max() == 200
    assert rows[0]["normals"].size == (96, 64)
