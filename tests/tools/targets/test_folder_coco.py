"""Outlines in the form of COCO are read as masks, wherever the file and its pictures lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from memory.errors import DataError
from tests.tools.targets.own_data import CLASSES, class_folders, scenes
from tools import targets
from tools.data.regions import draw_region, run_lengths
from tools.data.samples import VOID
from tools.targets import SPLITS, Target

WIDTH, HEIGHT = 48, 32


def build(root: Path, **options: Any) -> Target:
    return targets.build("folder", root.parent / "cache", path=str(root), **options)


def masks_of(target: Target) -> dict[str, np.ndarray]:
    """Return the masks of all photographs by the last part of their names."""
    return {
        Path(name).name: mask
        for split in SPLITS
        for name, mask in zip(
            target.split(split).ids, target.split(split).labels["segmentation"], strict=True
        )
    }


def write(
    root: Path, numbers: range, images: str, file: str, outlines: bool = True, seed: int = 0
) -> None:
    """Write pictures of 48x32 and a file with a tram in each, before it a dog in every third."""
    (root / images).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    entries: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for i in numbers:
        pixels = random.integers(0, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / images / f"{i:03d}.jpg")
        entries.append({"id": i, "file_name": f"{i:03d}.jpg", "width": WIDTH, "height": HEIGHT})
        for category, (x, y, w, h) in ((7, (4, 8, 30, 20)), (2, (10, 12, 6, 5)))[: 2 - (i % 3 > 0)]:
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            objects.append(
                {
                    "id": len(objects),
                    "image_id": i,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": [corners] if outlines else [],
                    "iscrowd": 0,
                }
            )
    titles = [{"id": n, "name": name} for n, name in ((1, "unused"), (2, "dog"), (7, "tram"))]
    data = {"info": {}, "images": entries, "annotations": objects, "categories": titles}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(data), "utf-8")


@pytest.mark.parametrize(
    ("images", "file"),
    [
        ("images", "annotations/instances_default.json"),
        ("images/train2017", "annotations/instances_train2017.json"),
        ("train2017", "annotations/instances_train2017.json"),
        ("train", "train/_annotations.coco.json"),
        (".", "result.json"),
    ],
)
def test_outlines_are_masks_with_the_small_objects_before_the_large(
    tmp_path: Path, images: str, file: str
) -> None:
    write(tmp_path / "own", range(24), images, file)
    target = build(tmp_path / "own", size="48x32")
    assert target.task == "segmentation"
    assert target.pixel_classes == ["background", "dog", "tram"]
    masks = masks_of(target)
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[8:28, 4:34] = 2
    assert np.array_equal(masks["001.jpg"], expected)
    expected[12:17, 10:16] = 1
    assert np.array_equal(masks["000.jpg"], expected)
    assert f"masks are made of the outlines in {file}" in target.notice


def test_splits_come_from_the_names_of_files_and_folders(tmp_path: Path) -> None:
    root = tmp_path / "own"
    write(root, range(20), "train2017", "annotations/instances_train2017.json")
    write(root, range(20, 30), "val2017", "annotations/instances_val2017.json", seed=1)
    (root / "annotations" / "captions_val2017.json").write_text(
        '{"images": [], "annotations": []}', "utf-8"
    )
    Image.new("L", (48, 32), 9).save(root / "val2017" / "alone.jpg")
    target = build(root)
    assert all(name.startswith("val2017/") for name in target.split("feedback").ids)
    assert len(target.split("feedback").ids) == 10
    assert '[label-missing] (1): "val2017/alone.jpg"' in target.notice


def test_pictures_of_equal_names_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for seed, split in enumerate(("train", "valid", "test")):
        write(root, range(20), split, f"{split}/_annotations.coco.json", seed=seed)
    target = build(root)
    assert {s: len(target.split(s).ids) for s in ("feedback", "test")} == {
        "feedback": 20,
        "test": 20,
    }


def test_the_table_says_more_of_pictures_with_outlines(tmp_path: Path) -> None:
    root = tmp_path / "own"
    write(root, range(24), "images", "annotations.json")
    lines = [f"{i:03d}.jpg,{('rain', 'sun')[i % 2]}" for i in range(24)]
    (root / "attributes.csv").write_text("\n".join(["file,weather", *lines]), "utf-8")
    assert list(build(root).vocabulary.attributes["weather"]) == ["rain", "sun"]


def test_boxes_alone_are_refused_and_beside_outlines_unknown(tmp_path: Path) -> None:
    root = tmp_path / "own"
    write(root, range(24), "train2017", "annotations/instances_train2017.json", outlines=False)
    with pytest.raises(
        DataError, match=r"\[annotation-boxes\] .*instances_train2017\.json of .* boxes "
    ):
        build(root)
    write(root, range(24), "train2017", "annotations/instances_train2017.json")
    data = json.loads((root / "annotations" / "instances_train2017.json").read_bytes())
    data["annotations"][0]["segmentation"] = []
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(data), "utf-8")
    target = build(root, size="48x32")
    assert "1 objects have a box and no outline" in target.notice
    mask = masks_of(target)["000.jpg"]
    assert mask[9, 5] == VOID
    assert mask[13, 11] == 1
    assert mask[0, 0] == 0


def test_what_is_wrong_with_outlines_is_named(tmp_path: Path) -> None:
    root = tmp_path / "own"
    write(root, range(24), "images", "annotations.json")
    data = json.loads((root / "annotations.json").read_bytes())
    data["images"].append({"id": 99, "file_name": "gone.jpg", "width": 48, "height": 32})
    data["annotations"][0]["segmentation"] = [[1, 2, 3]]
    (root / "annotations.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(DataError) as stopped:
        build(root)
    assert "masks of outlines that cannot be read" in str(stopped.value)
    assert '[label-unreadable] (1): "images/000.jpg"' in str(stopped.value)
    assert '[annotation-missing] (1): "gone.jpg"' in str(stopped.value)
    del data["annotations"][3]["category_id"]
    (root / "annotations.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(
        DataError, match=r"\[annotation-record\] .*annotations\.json .*annotations\.3\.category_id"
    ):
        build(root)
    (root / "annotations.json").write_text('{"images": [', "utf-8")
    with pytest.raises(DataError, match=r"\[annotation-json\] .*annotations\.json "):
        build(root)


def test_masks_go_before_outlines_and_classes_may_be_asked_for(tmp_path: Path) -> None:
    root = scenes(tmp_path / "scenes")
    write(root, range(24), "images", "annotations.json")
    for picture in (root / "images").glob("*.jpg"):
        picture.unlink()
    assert build(root).pixel_classes == ["sky", "road", "car"]
    birds = class_folders(tmp_path / "birds")
    names = [f"{CLASSES[0]}/img 0-00.jpg"]
    entries = [{"id": 0, "file_name": names[0], "width": 9, "height": 9}]
    data = {"images": entries, "annotations": [], "categories": []}
    (birds / "a.json").write_text(json.dumps(data), "utf-8")
    assert len(build(birds, task="classification").class_names) == 3


def test_run_lengths_are_read_plain_and_as_text() -> None:
    mask = np.zeros((60, 7), bool)
    mask[3:57, 1:3] = True
    mask[5:8, 2:6] = True
    mask[:, 2] ^= True
    plain = {"size": [60, 7], "counts": run_lengths(mask)}
    assert np.array_equal(draw_region(plain, 7, 60), mask)
    as_text = {
        "size": [60, 7],
        "counts": "o1f13]Nc10_N0d1000g1",
    }  # as pycocotools encodes the same mask
    assert np.array_equal(draw_region(as_text, 7, 60), mask)


def test_an_outline_covers_the_pixels_whose_centre_it_encloses() -> None:
    triangle = draw_region([[0, 0, 4, 0, 0, 4]], 5, 5)
    assert triangle.sum(1).tolist() == [3, 2, 1, 0, 0]
    beyond = draw_region([[-3, -3, 2, -3, 2, 9, -3, 9]], 5, 5)
    assert beyond[:, :2].all()
    assert not beyond[:, 2:].any()


def labelme(root: Path, images: str, files: str, shapes: list[dict[str, Any]]) -> Path:
    """Write 24 pictures of 48x32, each with a file of LabelMe."""
    write(root, range(24), images, "coco.json")
    (root / "coco.json").unlink()
    (root / files).mkdir(exist_ok=True)
    for i in range(24):
        data = {"imagePath": f"{i:03d}.jpg", "imageWidth": WIDTH, "imageHeight": HEIGHT}
        (root / files / f"{i:03d}.json").write_text(json.dumps(data | {"shapes": shapes}), "utf-8")
    return root


TRAM = {"label": "tram", "shape_type": "polygon", "points": [[4, 8], [34, 8], [34, 28], [4, 28]]}
DOG = {"label": "dog", "shape_type": "circle", "points": [[13, 14], [15, 14]]}
BOX = {"label": "dog", "shape_type": "rectangle", "points": [[40, 2], [44, 6]]}
POINT = {"label": "cat", "shape_type": "point", "points": [[40, 2]]}


@pytest.mark.parametrize("files", ["images", "labels"])
def test_outlines_of_labelme_are_masks(tmp_path: Path, files: str) -> None:
    root = labelme(tmp_path / "own", "images", files, [DOG, TRAM, BOX, POINT])
    target = build(root, size="48x32")
    assert target.pixel_classes == ["background", "dog", "tram"]
    mask = masks_of(target)["007.jpg"]
    assert mask[27, 33] == 2
    assert mask[14, 13] == 1
    assert mask[3, 41] == VOID
    assert mask[0, 0] == 0
    assert f"outlines in {files}/*.json" in target.notice
    assert "[shapes-without-area] (24)" in target.notice


def test_rectangles_of_labelme_are_boxes_and_broken_shapes_are_named(tmp_path: Path) -> None:
    root = labelme(tmp_path / "own", "images", "images", [BOX])
    with pytest.raises(DataError, match=r"\[annotation-boxes\] .*images/\*\.json of .* boxes "):
        build(root)
    data = {"shapes": [{"label": "dog", "points": [[1], [2]]}]}
    (root / "images" / "003.json").write_text(json.dumps(data), "utf-8")
    with pytest.raises(DataError, match=r"\[annotation-record\] .*003\.json .*shapes\.0\.points"):
        build(root)


ODD_VALUES: list[Any] = ["missing", None, "text", float("nan"), -1, [], [[]], {}, True]


@pytest.mark.parametrize("odd", ODD_VALUES, ids=repr)
@pytest.mark.parametrize(
    "place",
    [
        *("images.id", "images.file_name", "images.width", "images.height"),
        *("annotations.image_id", "annotations.category_id", "annotations.segmentation"),
        *("annotations.bbox", "annotations.area", "categories.id", "categories.name"),
    ],
)
def test_an_odd_value_of_a_record_is_read_or_named(tmp_path: Path, place: str, odd: Any) -> None:
    root = tmp_path / "own"
    write(root, range(24), "images", "coco.json")
    data = json.loads((root / "coco.json").read_bytes())
    part, key = place.split(".")
    record = data[part][-1]
    record[key] = odd
    if odd == "missing":
        del record[key]
    (root / "coco.json").write_text(json.dumps(data), "utf-8")
    try:
        assert build(root).pixel_classes[0] == "background"
    except DataError as error:
        assert "coco.json" in str(error) or "images/023.jpg" in str(error)


@pytest.mark.parametrize("odd", ODD_VALUES, ids=repr)
@pytest.mark.parametrize("key", ["label", "shape_type", "points", "imageWidth"])
def test_an_odd_value_of_labelme_is_read_or_named(tmp_path: Path, key: str, odd: Any) -> None:
    root = labelme(tmp_path / "own", "images", "images", [DOG, TRAM])
    file = root / "images" / "003.json"
    data = json.loads(file.read_bytes())
    record = data if key == "imageWidth" else data["shapes"][0]
    record[key] = odd
    if odd == "missing":
        del record[key]
    file.write_text(json.dumps(data), "utf-8")
    try:
        assert build(root).pixel_classes[0] == "background"
    except DataError as error:
        assert "003.json" in str(error) or "images/003.jpg" in str(error)


def test_sizes_and_ids_may_be_of_other_types(tmp_path: Path) -> None:
    plain, odd = tmp_path / "plain", tmp_path / "odd"
    for root in (plain, odd):
        write(root, range(24), "images", "coco.json")
    data = json.loads((odd / "coco.json").read_bytes())
    for image, annotation in zip(data["images"], data["annotations"], strict=False):
        image |= {"width": None, "height": None, "id": str(image["id"])}
        annotation["category_id"] = float(annotation["category_id"])
    (odd / "coco.json").write_text(json.dumps(data), "utf-8")
    read, expected = masks_of(build(odd)), masks_of(build(plain))
    assert all(np.array_equal(read[name], expected[name]) for name in expected)
