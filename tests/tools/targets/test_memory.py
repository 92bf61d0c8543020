"""Large and forged pictures take little memory, and the pixels read of ordinary ones stay."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memory.errors import DataError
from tests.tools.targets.own_data import class_folders, scenes
from tools import targets
from tools.data.regions import draw_region
from tools.targets.user import label_files, pictures
from tools.targets.user.pictures import UnreadableImageError


def peak_bytes(call: object) -> int:
    tracemalloc.start()
    try:
        call()  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def forged_png(path: Path, width: int, height: int) -> None:
    """Write a PNG of a few bytes whose header declares a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_a_large_photograph_is_read_in_strips() -> None:
    side = 1600
    picture = Image.new("RGB", (side, side), (200, 30, 30))
    assert peak_bytes(lambda: pictures.to_photograph(picture)) < 8 * side * side
    assert peak_bytes(lambda: pictures.pixel_digest(picture)) < 4 * side * side
    mask = peak_bytes(lambda: label_files.read_mask(np.zeros((side, side), np.uint8)))
    assert mask < 8 * side * side


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_strips_give_the_pixels_of_the_whole(mode: str) -> None:
    random = np.random.default_rng(0)
    rgb = Image.fromarray(random.integers(0, 255, (900, 701, 3)).astype(np.uint8))
    picture = rgb.convert("L").convert("I").convert(mode) if mode == "I;16" else rgb.convert(mode)
    whole = hashlib.sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
    assert pictures.pixel_digest(picture) == whole.hexdigest()


@pytest.mark.parametrize("spread", [0, 1, 2, 3, 4, 200])
def test_gray_and_coloured_are_told_apart_as_by_all_pixels(spread: int) -> None:
    random = np.random.default_rng(spread)
    values = random.integers(0, 255, (1000, 300, 1)) + random.integers(0, spread + 1, (1, 1, 3))
    values = values.clip(0, 255).astype(np.uint8)
    floats = values.astype(np.int16)
    coloured = np.abs(floats - floats.mean(2, keepdims=True)).mean() > 2
    photograph = pictures.to_photograph(Image.fromarray(values))
    assert photograph.mode == ("RGB" if coloured else "L")


def test_pictures_with_too_many_pixels_are_left_out_by_name(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    forged_png(root / "Red Kite" / "huge.png", 9_000, 9_000)
    forged_png(root / "Red Kite" / "more than Pillow opens.png", 60_000, 60_000)
    target = targets.build("folder", tmp_path / "cache", path=str(root))
    assert "of more than 64 megapixels" in target.notice
    assert "huge.png" in target.notice and "more than Pillow" in target.notice
    with pytest.raises(DataError, match="max_pixels"):
        targets.build("folder", tmp_path / "cache", path=str(root), max_pixels=0)
    with pytest.raises(DataError, match=r"of more than 0.001 megapixels"):
        targets.build("folder", tmp_path / "cache", path=str(root), max_pixels=1000)


def test_labels_with_too_many_pixels_are_an_error_by_name(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    forged_png(root / "masks" / "03.png", 9_000, 9_000)
    (root / "depth" / "05.png").unlink()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9000000, 9000000), }"
    file = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"
    (root / "depth" / "05.npy").write_bytes(file)
    with pytest.raises(DataError) as stopped:
        targets.build("folder", tmp_path / "cache", path=str(root))
    assert "64 megapixels" in str(stopped.value) and "03.png" in str(stopped.value)
    assert "arrays" in str(stopped.value) and "05.png" in str(stopped.value)


def test_sizes_in_annotations_are_not_allocated(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes", names="")
    images = [{"id": i, "file_name": f"{i:02d}.png", "width": 48, "height": 32} for i in range(24)]
    images[3] |= {"width": 10**9, "height": 10**9}
    outline = [[4, 4, 20, 4, 20, 20, 4, 20]]
    objects = [
        {"id": i, "image_id": i, "category_id": 1, "segmentation": outline} for i in range(24)
    ]
    objects[5]["segmentation"] = {"counts": [0, 10**14], "size": [32, 48]}
    data = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "car"}]}
    for folder in ("masks", "depth"):
        for file in (root / folder).iterdir():
            file.unlink()
        (root / folder).rmdir()
    (root / "instances.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(DataError) as stopped:
        targets.build("folder", tmp_path / "cache", path=str(root))
    assert "1000000000x1000000000" in str(stopped.value) and "03.png" in str(stopped.value)
    assert "run lengths" in str(stopped.value) and "05.png" in str(stopped.value)


@pytest.mark.parametrize("counts", [[0, 10**14], [-5, 15], [3, float("inf")], []])
def test_run_lengths_are_checked_before_they_are_allocated(counts: list[float]) -> None:
    with pytest.raises(ValueError, match="do not fill 5x2"):
        draw_region({"counts": counts}, 5, 2)


def test_an_array_of_too_many_pixels_is_refused() -> None:
    with pytest.raises(UnreadableImageError, match="more than 1e-05 megapixels"):
        pictures.open_picture(np.zeros((4, 4), np.uint8), 10)
