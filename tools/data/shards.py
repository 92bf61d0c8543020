"""Storage of images as parquet shards, which `datasets.load_dataset("parquet", ...)` reads.

Pixel labels are stored as PNG files: segmentation as 8-bit ids (255: unknown); depth as in KITTI,
16 bits, metres times 256 (0: unknown); normals as 8-bit RGB, 127 n + 128 (0: unknown).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from memory.errors import DataError
from memory.files import write_bytes
from memory.records import digest
from tools.data.samples import KINDS, Images, Samples, concatenate, content_digest

_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_DEPTH_SCALE = 256
# Photographs per shard.
_N_PER_SHARD = 512
_TYPES = {
    "image": _PICTURE,
    "label": pa.int64(),
    "text": pa.string(),
    "prompt_id": pa.string(),
    "index": pa.int64(),
    "attributes": pa.string(),
    "weight": pa.float64(),
}


def write_shard(
    samples: Samples,
    texts: Sequence[str],
    prompt_ids: Sequence[str],
    indices: Sequence[int],
    class_names: Sequence[str],
) -> bytes:
    """Return generated images as the bytes of a parquet file; equal inputs give equal bytes.

    The schema contains the Hugging Face features, so that `image` is decoded as a picture and
    `label` is a class of `class_names`.

    Args:
        samples: Images with labels.
        texts: Prompt text of each image.
        prompt_ids: Prompt id of each image.
        indices: Number of each image within its prompt.
        class_names: Class names of the labels.
    """
    rows = {
        "image": [
            {"bytes": encode_png(image), "path": f"{name}.png"}
            for image, name in zip(samples.images, samples.ids, strict=True)
        ],
        "label": samples.classes,
        "text": list(texts),
        "prompt_id": list(prompt_ids),
        "index": list(indices),
        "attributes": [json.dumps(dict(a), sort_keys=True) for a in samples.attributes],
        "weight": samples.weights,
    }
    kinds = [kind for kind in KINDS if kind in samples.labels]
    for kind in kinds:
        rows[kind] = [
            {"bytes": encode_label(kind, values), "path": f"{name}.{kind}.png"}
            for values, name in zip(samples.labels[kind], samples.ids, strict=True)
        ]
    features = _features(class_names) | {kind: {"_type": "Image"} for kind in kinds}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    types = [*_TYPES.items(), *((kind, _PICTURE) for kind in kinds)]
    table = pa.table(rows, schema=pa.schema(types, metadata=metadata))
    file = io.BytesIO()
    pq.write_table(table, file, write_page_checksum=True)
    return file.getvalue()


def read_shards(paths: Sequence[Path]) -> Samples:
    """Return the images of all shards, in order.

    Raises:
        DataError: There are no shards, or one is missing, damaged or of another image shape.
    """
    parts: list[Samples] = []
    for path in paths:
        with reading_shard(path):
            parts.append(samples_of(read_table(path)))
        check_shapes(path, parts[-1].image_shape, paths[0], parts[0].image_shape)
    return concatenate(parts)


def read_table(path: Path) -> pa.Table:
    """Return the table of a shard, with pictures as PNG bytes."""
    return pq.ParquetFile(path, page_checksum_verification=True).read()


@contextmanager
def reading_shard(path: Path) -> Iterator[None]:
    """Convert read errors to a DataError that says how to restore the shard at `path`."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError, SyntaxError) as error:
        raise DataError(
            f"The shard {path} is missing or damaged ({error}). Delete this file, if it is "
            "there, and run the same command again: only its images are generated again."
        ) from error


def check_shapes(
    path: Path, shape: tuple[int, int, int], first: Path, wanted: tuple[int, int, int]
) -> None:
    """Raise DataError if the image shape of a shard differs from that of the first shard."""
    if shape != wanted:
        raise DataError(
            f"The images of {path} have the shape {shape}, those of {first} {wanted}. Use shards "
            "of one generator setting."
        )


def _png(pixels: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def _pixels(data: bytes) -> NDArray[Any]:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
        return np.asarray(picture)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return an image, uint8, (1 or 3, height, width), as PNG bytes."""
    return _png(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """Invert `encode_png`."""
    pixels = _pixels(data)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def encode_label(kind: str, values: NDArray[Any]) -> bytes:
    """Return the labels of one image as PNG bytes, see the module."""
    if kind == "segmentation":
        return _png(values)
    if kind == "depth":
        scaled = np.nan_to_num(values * _DEPTH_SCALE, nan=0.0).round().clip(0, 2**16 - 1)
        return _png(scaled.astype(np.uint16))
    coded = np.nan_to_num(values * 127 + 128, nan=0.0).round().clip(0, 255)
    return _png(coded.astype(np.uint8).transpose(1, 2, 0))


def decode_label(kind: str, data: bytes) -> NDArray[Any]:
    """Invert `encode_label`, up to rounding of depth and normals."""
    pixels = _pixels(data)
    if kind == "segmentation":
        return pixels
    if kind == "depth":
        return np.where(pixels == 0, np.nan, pixels / _DEPTH_SCALE).astype(np.float32)
    return decode_normals(pixels)


def decode_normals(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Decode RGB pixels, (h, w, 3), to unit normals, (3, h, w); NaN for black pixels."""
    normals = (pixels.transpose(2, 0, 1).astype(np.float32) - 128) / 127
    length = np.linalg.norm(normals, axis=0, keepdims=True)
    unknown = (pixels == 0).all(2)
    unit: NDArray[np.float32] = np.where(unknown, np.nan, normals / np.maximum(length, 1e-6))
    return unit.astype(np.float32)


def samples_of(table: pa.Table) -> Samples:
    """Decode the rows of a shard's table to samples."""
    pictures = table["image"].to_pylist()
    images: Images = np.stack([decode_png(picture["bytes"]) for picture in pictures])
    return Samples(
        images=images,
        classes=table["label"].to_numpy(),
        attributes=[json.loads(text) for text in table["attributes"].to_pylist()],
        ids=[picture["path"].removesuffix(".png") for picture in pictures],
        weights=table["weight"].to_numpy(),
        labels={
            kind: np.stack([decode_label(kind, p["bytes"]) for p in table[kind].to_pylist()])
            for kind in kinds_of(table)
        },
    )


def kinds_of(table: pa.Table) -> list[str]:
    """Return the kinds of pixel labels in a shard's table."""
    return [kind for kind in KINDS if kind in table.column_names]


def _features(class_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the columns as features of the library `datasets`."""
    features: dict[str, dict[str, Any]] = {
        name: {"dtype": str(kind).replace("double", "float64"), "_type": "Value"}
        for name, kind in _TYPES.items()
    }
    return features | {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
    }


def stratified(samples: Samples, n: int, seed: int) -> Samples:
    """Return a stratified subset of n samples, in order, with at least one per class.

    For a given seed, a smaller subset is contained in a larger one, apart from the images added to
    have at least one per class.

    Args:
        samples: Samples; all are returned if there are at most n.
        n: Number of images; exceeded if there are more classes.
        seed: Seed of the random order within a class.
    """
    if len(samples) <= n:
        return samples
    order = np.random.default_rng(seed).permutation(len(samples))
    # The k-th of m images of a class is taken when the share taken of each class is (k + 1/2) / m.
    place = np.empty(len(samples))
    is_first = np.zeros(len(samples), dtype=bool)
    for number in np.unique(samples.classes):
        members = order[samples.classes[order] == number]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
        is_first[members[0]] = True
    ranked = np.lexsort((place, ~is_first))
    return samples.take(np.sort(ranked[: max(n, int(is_first.sum()))]))


def write_photographs(samples: Samples, cache: Path, class_names: Sequence[str]) -> list[Path]:
    """Write photographs as shards to a folder named by their content; return the paths.

    Photographs are read like generated images, and stay in the cache: they are not copied into
    sessions.

    Args:
        samples: Photographs.
        cache: Cache folder, HOME/cache.
        class_names: Class names of the target.
    """
    folder = cache / f"real-{digest([content_digest(samples), list(samples.ids)])}"
    paths: list[Path] = []
    for start in range(0, len(samples), _N_PER_SHARD):
        paths.append(folder / f"data-{len(paths):03d}.parquet")
        if not paths[-1].exists():
            part = samples.take(range(start, min(start + _N_PER_SHARD, len(samples))))
            n = len(part)
            shard = write_shard(part, [""] * n, ["photograph"] * n, range(n), class_names)
            write_bytes(paths[-1], shard)
    return paths
