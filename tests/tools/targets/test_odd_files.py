"""Odd files: each is read with the right values, or refused by name; no label changes silently."""

from __future__ import annotations

import base64
import io
import json
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from memory.errors import DataError
from tests.tools.targets.own_data import save_mask, scenes
from tools import targets
from tools.targets import SPLITS, Target


def build(root: Path, **options: Any) -> Target:
    return targets.build("folder", root.parent / "cache", path=str(root), **options)


def masks_of(target: Target) -> dict[str, np.ndarray]:
    """Return the class names of all pixels of every photograph, by its name without suffix."""
    names = np.array([*target.pixel_classes, *[""] * (256 - len(target.pixel_classes))])
    return {
        Path(name).stem: names[mask]
        for split in map(target.split, SPLITS)
        for name, mask in zip(split.ids, split.labels["segmentation"], strict=True)
    }


def rewrite(root: Path, write: Callable[[Path, np.ndarray], None]) -> Path:
    """Write every mask anew."""
    for file in sorted((root / "masks").iterdir()):
        mask = np.array(Image.open(file))
        file.unlink()
        write(file, mask)
    return root


# Masks.

COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


def with_own_palette(file: Path, mask: np.ndarray) -> None:
    """Save a mask as programs do that sort the colours of each file."""
    order = np.random.default_rng(int(file.stem)).permutation(3)
    picture = Image.fromarray(np.argsort(order)[mask].astype(np.uint8)).copy()
    picture.putpalette(COLOURS[order].tobytes())
    picture.save(file)


def test_palettes_of_each_mask_are_refused_or_read_by_colour(tmp_path: Path) -> None:
    right = masks_of(build(scenes(tmp_path / "right")))
    root = rewrite(scenes(tmp_path / "data"), with_own_palette)
    with pytest.raises(DataError, match=r"mask-palettes"):
        build(root)
    (root / "classes.txt").unlink()
    (root / "classes.csv").write_text("sky,0,0,0\nroad,255,0,0\ncar,0,255,0\n")
    found = masks_of(build(root))
    assert all(np.array_equal(found[name], mask) for name, mask in right.items())


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        (".png", {"format": "JPEG"}),
        (".png", {"format": "WEBP"}),
        (".tif", {"format": "TIFF", "compression": "jpeg"}),
    ],
)
def test_masks_of_lossy_formats_are_refused_by_content(
    tmp_path: Path, ending: str, how: dict[str, Any]
) -> None:
    def write(file: Path, mask: np.ndarray) -> None:
        Image.fromarray(mask).save(file.with_suffix(ending), **how)

    with pytest.raises(DataError, match=rf"{how['format'].replace('TIFF', 'JPEG')}, which blurs"):
        build(rewrite(scenes(tmp_path / "data"), write))


@pytest.mark.parametrize("how", [{"format": "PNG"}, {"format": "WEBP", "lossless": True}])
def test_masks_of_exact_formats_are_read_by_content(tmp_path: Path, how: dict[str, Any]) -> None:
    def write(file: Path, mask: np.ndarray) -> None:
        Image.fromarray(mask).save(file.with_suffix(".jpg"), **how)

    right = masks_of(build(scenes(tmp_path / "right")))
    found = masks_of(build(rewrite(scenes(tmp_path / "data"), write)))
    assert all(np.array_equal(found[name], mask) for name, mask in right.items())


@pytest.mark.parametrize("values", [(0, 128, 255), (0, 251, 255)])
def test_whether_255_is_a_class_is_not_guessed(tmp_path: Path, values: tuple[int, ...]) -> None:
    """Values between 0 and 255 may be classes, or soft edges of two."""
    root = scenes(tmp_path / "data", names="")
    rewrite(root, lambda file, mask: save_mask(file, np.array(values, np.uint8)[mask]))
    with pytest.raises(DataError, match=r"mask-255"):
        build(root)
    assert len(build(root, void=[]).pixel_classes) == 3
    (root / "classes.yaml").write_text(f"0: sky\n{values[1]}: road\n255: void\n")
    assert build(root).pixel_classes == ["sky", "road"]


def test_numbers_of_objects_are_no_classes(tmp_path: Path) -> None:
    def write(file: Path, mask: np.ndarray) -> None:
        numbers = np.arange(mask.size).reshape(mask.shape) // 40
        save_mask(file, (numbers % (4 + int(file.stem) % 7)).astype(np.uint8))

    root = rewrite(scenes(tmp_path / "cells", names=""), write)
    with pytest.raises(DataError, match=r"\[mask-instances\]"):
        build(root)
    (root / "classes.yaml").write_text("".join(f"{i}: layer {i}\n" for i in range(10)), "utf-8")
    assert len(build(root).pixel_classes) == 10


def test_ids_below_zero_are_of_unknown_class(tmp_path: Path) -> None:
    def write(file: Path, mask: np.ndarray) -> None:
        np.save(file.with_suffix(".npy"), mask.astype(np.int16) - 1)

    target = build(rewrite(scenes(tmp_path / "scenes", names=""), write))
    assert target.pixel_classes == ["class 0", "class 1"]
    assert "id -1 in masks count as of unknown class" in target.notice


def test_masks_of_1_beside_masks_of_255_are_refused(tmp_path: Path) -> None:
    def write(file: Path, mask: np.ndarray) -> None:
        save_mask(file, (mask > 0).astype(np.uint8) * (255 if int(file.stem) % 3 else 1))

    root = rewrite(scenes(tmp_path / "cells", names=""), write)
    with pytest.raises(DataError, match=r"\[mask-scales\]"):
        build(root)
    (root / "classes.yaml").write_text("0: ground\n1: cell\n255: cell\n", "utf-8")
    masks = masks_of(build(root, void=[]))
    assert {*np.unique(masks["03"])} == {*np.unique(masks["04"])} == {"ground", "cell"}


@pytest.mark.parametrize("how", ["scaled", "JPEG"])
def test_soft_edges_are_no_classes(tmp_path: Path, how: str) -> None:
    def soften(file: Path, mask: np.ndarray) -> None:
        picture = Image.fromarray((mask > 0).astype(np.uint8) * 200)
        if how == "scaled":
            picture = picture.resize((24, 16)).resize((48, 32), Image.Resampling.BILINEAR)
        else:
            buffer = io.BytesIO()
            picture.save(buffer, format="JPEG", quality=98)
            picture = Image.open(buffer)
        picture.save(file)

    root = rewrite(scenes(tmp_path / "data", names=""), soften)
    with pytest.raises(DataError, match=r"mask-soft|mask-values"):
        build(root)


def test_photographs_without_a_known_pixel_are_left_out(tmp_path: Path) -> None:
    """The test split of Cityscapes has dummy masks; it could not be measured after training."""
    root = scenes(tmp_path / "data", names="sky\nroad\ncar\nvoid\n")
    shutil.rmtree(root / "depth")

    def write(file: Path, mask: np.ndarray) -> None:
        split = "test" if int(file.stem) < 4 else "train"
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(exist_ok=True)
        image = root / "images" / file.name
        image.rename(root / "images" / split / file.name)
        save_mask(
            file.parent / split / file.name, np.full_like(mask, 3) if split == "test" else mask
        )

    target = build(rewrite(root, write))
    assert "masks have no known pixel, left out [label-void] (4)" in target.notice
    for split in SPLITS:
        assert (target.split(split).labels["segmentation"] < 3).any()


# Names and cells.


@pytest.mark.parametrize("forms", [("NFD", "NFC"), ("NFC", "NFD")])
def test_composed_and_decomposed_names_are_pairs(tmp_path: Path, forms: Any) -> None:
    right = masks_of(build(scenes(tmp_path / "right")))
    root = scenes(tmp_path / "data")
    shutil.rmtree(root / "depth")
    for folder, form in zip(("images", "masks"), forms, strict=True):
        for file in list((root / folder).iterdir()):
            file.rename(file.with_name(unicodedata.normalize(form, f"é{file.name}")))
    names = [unicodedata.normalize(forms[1], f"é{i:02d}") for i in range(24)]
    (root / "train.txt").write_text("\n".join(names[4:]), "utf-8")
    (root / "test.txt").write_text("\n".join(names[:4]), "utf-8")
    target = build(root)
    found = {name[-2:]: mask for name, mask in masks_of(target).items()}
    assert all(np.array_equal(found[name], mask) for name, mask in right.items())
    assert len(target.split("test").ids) == 4


def photographs(root: Path, cells: Sequence[str], column: str = "class") -> Path:
    """Write photographs with a table that gives each a cell of `cells` in turn."""
    scenes(root, n=36)
    for file in (root / "images").iterdir():
        file.rename(root / file.name)
    for folder in ("images", "masks", "depth"):
        shutil.rmtree(root / folder)
    (root / "classes.txt").unlink()
    lines = [f'{i:02d}.png,"{cells[i % len(cells)]}","{i % 2}"' for i in range(36)]
    head = ("file", column, "kind" if column == "class" else "class")
    (root / "attributes.csv").write_text("\n".join([",".join(head), *lines]), "utf-8")
    return root


@pytest.mark.parametrize("cell", ["NA", "n/a", "<NA>", "nan", "?", " "])
def test_a_class_that_is_unknown_is_no_class(tmp_path: Path, cell: str) -> None:
    target = build(photographs(tmp_path / "data", ["cat", "dog", cell]))
    assert target.class_names == ["cat", "dog"]
    assert "[no-class-in-table] (12)" in target.notice


@pytest.mark.parametrize(
    "cells", [("A+", "A-"), ("C", "C++"), ("<5", ">5"), ("x" * 41, "x" * 42), ("dog", "dog?")]
)
def test_classes_and_values_are_not_merged_silently(tmp_path: Path, cells: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"classes-alike"):
        build(photographs(tmp_path / "classes", cells))
    target = build(photographs(tmp_path / "attributes", [*cells, "other"], "grade"))
    assert "[column-alike]" in target.notice
    assert "grade" not in target.vocabulary.attributes


def test_classes_and_values_of_other_typography_are_one(tmp_path: Path) -> None:
    cells = ["Red Kite", "red_kite", "red-kite ", "owl", "'Owl'", "(owl)"]
    target = build(photographs(tmp_path / "data", cells))
    assert target.class_names == ["Red Kite", "owl"]
    target = build(photographs(tmp_path / "attributes", cells, "bird"))
    assert set(target.vocabulary.attributes["bird"]) == {"red-kite", "owl"}


@pytest.mark.parametrize(
    "cells",
    [
        ("cat", "dog", "cat;dog"),
        ("cat|dog", "dog|bird", "bird|cat"),
        ("['cat']", "['dog']", "['cat', 'dog']"),
        ("cat", "dog", "cat, dog"),
        ("cat", "dog", "cat+dog"),
    ],
)
def test_cells_of_several_classes_are_refused(tmp_path: Path, cells: Sequence[str]) -> None:
    with pytest.raises(DataError, match=r"classes-in-cell"):
        build(photographs(tmp_path / "data", cells))


def test_names_with_a_comma_are_no_lists(tmp_path: Path) -> None:
    cells = ["Tomato, late blight", "Potato, late blight", "Tomato, healthy"]
    assert len(build(photographs(tmp_path / "data", cells)).class_names) == 3


# Names of classes, and annotation files.


@pytest.mark.parametrize(
    "text", ["0 sky\n1 road\n2 car\n", "0: sky\n1: road\n2: car", "2\tcar\n0\tsky\n1\troad"]
)
def test_numbered_lines_are_ids_and_names(tmp_path: Path, text: str) -> None:
    right = masks_of(build(scenes(tmp_path / "right")))
    found = masks_of(build(scenes(tmp_path / "data", names=text)))
    assert all(np.array_equal(found[name], mask) for name, mask in right.items())


@pytest.mark.parametrize(
    "text",
    [
        "id,name,r,g,b\n0,sky,0,0,0\n1,road,255,0,0\n2,car,0,255,0\n",
        "id;r;g;b;name\n7;0;0;0;sky\n8;255;0;0;road\n9;0;255;0;car\n",
        "0,sky,0,0,0\n1,road,255,0,0\n2,car,0,255,0\n",
        "Red,Green,Blue,Class\n0,0,0,sky\n255,0,0,road\n0,255,0,car\n",
    ],
)
def test_columns_beside_names_and_colours_are_no_part_of_names(tmp_path: Path, text: str) -> None:
    root = scenes(tmp_path / "data", names="")
    rewrite(root, lambda file, mask: Image.fromarray(COLOURS[mask]).save(file))
    (root / "classes.csv").write_text(text)
    right = masks_of(build(scenes(tmp_path / "right")))
    found = masks_of(build(root))
    assert all(np.array_equal(found[name], mask) for name, mask in right.items())


def test_four_numbers_before_a_name_need_a_header(tmp_path: Path) -> None:
    root = scenes(tmp_path / "data", names="")
    rewrite(root, lambda file, mask: Image.fromarray(COLOURS[mask]).save(file))
    (root / "classes.csv").write_text("1,0,0,0,sky\n2,255,0,0,road\n3,0,255,0,car\n")
    with pytest.raises(DataError, match=r"class-file"):
        build(root)


def labelme(root: Path, shapes: Callable[[np.ndarray], list[dict[str, Any]]]) -> Path:
    """Write images with files of LabelMe; the shapes of the mask."""
    scenes(root)
    for file in sorted((root / "masks").iterdir()):
        mask = np.array(Image.open(file))
        (root / "images" / file.name).rename(root / file.name)
        content = {"shapes": shapes(mask), "imageHeight": 32, "imageWidth": 48}
        (root / file.name).with_suffix(".json").write_text(json.dumps(content))
    for name in ("masks", "images", "depth"):
        shutil.rmtree(root / name)
    return root


def test_masks_of_labelme_are_read_and_empty_shapes_noted(tmp_path: Path) -> None:
    def shapes(mask: np.ndarray) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [
            {"label": "car", "points": points, "shape_type": "polygon"}
            for points in ([], [[1, 1]], [[1, 1], [9, 9]])
        ]
        for label, number in (("road", 1), ("car", 2)):
            rows, columns = np.nonzero(mask == number)
            if len(rows):
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                buffer = io.BytesIO()
                Image.fromarray(mask == number).crop(box).save(buffer, format="PNG")
                text = base64.b64encode(buffer.getvalue()).decode()
                points = [[float(x) for x in box[:2]], [float(x) - 1 for x in box[2:]]]
                shape = {"label": label, "points": points, "shape_type": "mask", "mask": text}
                found.append(shape)
        return found

    right = masks_of(build(scenes(tmp_path / "right", names="background\nroad\ncar\n")))
    target = build(labelme(tmp_path / "data", shapes))
    assert "[shapes-without-area] (24)" in target.notice
    found = masks_of(target)
    assert all(np.array_equal(found[name], mask) for name, mask in right.items())


@pytest.mark.parametrize("mask", ["", "no base64", base64.b64encode(b"no picture").decode()])
def test_masks_of_labelme_that_are_none_are_named(tmp_path: Path, mask: str) -> None:
    shape = {"label": "car", "points": [[1, 1], [9, 9]], "shape_type": "mask", "mask": mask}
    root = labelme(tmp_path / "data", lambda _: [shape])
    with pytest.raises(DataError, match=str(root) if not mask else r"00\.json"):
        build(root)


@pytest.mark.parametrize("names", [("SegmentationClass", "SegmentationObject"), ("masks",)])
def test_labels_without_images_are_named(tmp_path: Path, names: Sequence[str]) -> None:
    for name in names:
        shutil.copytree(scenes(tmp_path / name) / "masks", tmp_path / "data" / name)
    with pytest.raises(DataError, match=r"labels-alone"):
        build(tmp_path / "data")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0: no\n1: yes\n2: NA\n", ["no", "yes", "NA"]),
        ("- on\n- 012\n- null\n", ["on", "012", "null"]),
        ("sky: 0\nno: 1\n'2': 2\n", ["sky", "no", "2"]),
        ("names: {0: y, 1: 1e3, 2: 2024-01-01}\nnc: 3\n", ["y", "1e3", "2024-01-01"]),
    ],
)
def test_names_in_yaml_are_as_they_are_written(tmp_path: Path, text: str, names: list[str]) -> None:
    root = scenes(tmp_path / "data", names="")
    (root / "classes.yaml").write_text(text)
    assert build(root).pixel_classes == names


@pytest.mark.parametrize("text", ["0.5: a\n1: b\n2: c", "0: [a]\n1: b\n2: c", "0: {a: b}", "{}"])
def test_what_is_no_name_is_refused(tmp_path: Path, text: str) -> None:
    root = scenes(tmp_path / "data", names="")
    (root / "classes.yaml").write_text(text)
    with pytest.raises(DataError, match=r"class-file"):
        build(root)


def test_two_columns_of_classes_are_refused(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", ["cat", "dog"])
    text = (root / "attributes.csv").read_text().replace("kind", "Class", 1)
    (root / "attributes.csv").write_text(text)
    with pytest.raises(DataError, match=r"table-column-twice"):
        build(root)
