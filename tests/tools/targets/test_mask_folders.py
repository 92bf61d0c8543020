"""Masks are not taken for the photographs of a class, whatever their folder is called."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memory.errors import DataError
from tests.tools.targets.own_data import CLASSES, class_folders, scenes
from tools import targets


def layout(root: Path, images: str, masks: str, n: int = 24) -> Path:
    """Write images and masks of scenes into folders of any names."""
    made = scenes(root.parent / "made", n)
    for old, new in (("images", images), ("masks", masks)):
        shutil.copytree(made / old, root / new)
    return root


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("img_dir/train", "ann_dir/train"),
        ("imagesTr", "labelsTr"),
        ("original_images", "label_images_semantic"),
        ("original", "mask"),
        ("image_2", "semantic"),
        ("CameraRGB", "CameraSeg"),
        ("a", "b"),
    ],
)
def test_a_folder_of_masks_is_no_class(tmp_path: Path, images: str, masks: str) -> None:
    root = layout(tmp_path / "data", images, masks)
    with pytest.raises(DataError) as error:
        targets.build("folder", tmp_path / "cache", path=str(root))
    for name in (images.split("/")[0], masks.split("/")[0], "task=classification"):
        assert name in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_a_folder_of_masks_among_splits_is_no_class(tmp_path: Path) -> None:
    layout(tmp_path / "data" / "train", "x", "y")
    layout(tmp_path / "data" / "test" / "..", "test/x", "test/y")
    with pytest.raises(DataError, match=r"mask-folder"):
        targets.build("folder", tmp_path / "cache", path=str(tmp_path / "data"))


def test_the_user_may_say_that_these_are_classes(tmp_path: Path) -> None:
    root = layout(tmp_path / "data", "photograph", "drawing", 30)
    options = {"path": str(root), "task": "classification"}
    target = targets.build("folder", tmp_path / "cache", **options)
    assert len(target.class_names) == 2


def test_classes_of_drawings_are_read(tmp_path: Path) -> None:
    """Where all pictures have few colours they are pictures of classes."""
    rng = np.random.default_rng(0)
    for name in ("zero", "one"):
        folder = tmp_path / "digits" / name
        folder.mkdir(parents=True)
        for i in range(20):
            pixels = (rng.random((16, 16)) < 0.5).astype(np.uint8) * 255
            Image.fromarray(pixels).save(folder / f"{i}.png")
    target = targets.build("folder", tmp_path / "cache", path=str(tmp_path / "digits"))
    assert sorted(target.class_names) == ["one", "zero"]


def test_classes_with_equal_names_of_photographs_are_read(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "own", n=20)
    for folder in root.iterdir():
        for i, file in enumerate(sorted(folder.iterdir())):
            file.rename(folder / f"{i:04d}{file.suffix}")
    assert len(targets.build("folder", tmp_path / "cache", path=str(root)).class_names) == 3


def test_our_own_home_within_the_data_is_no_class(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "own", n=20)
    for _ in range(2):
        target = targets.build("folder", root / "shaping-home" / "cache", path=str(root))
        assert len(target.class_names) == 3
    assert any((root / "shaping-home" / "cache").iterdir())


@pytest.mark.parametrize("home", ["results", "."])
def test_another_home_within_the_data_is_refused_by_name(tmp_path: Path, home: str) -> None:
    root = class_folders(tmp_path / "own", n=20)
    with pytest.raises(DataError, match=r"home-inside.*--home"):
        targets.build("folder", root / home / "cache", path=str(root))


def test_formats_that_start_programs_are_not_opened(tmp_path: Path) -> None:
    """An EPS that is called .png would be handed to Ghostscript."""
    root = class_folders(tmp_path / "own", n=20)
    file = root / CLASSES[0] / "odd.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n%%EOF\n")
    target = targets.build("folder", tmp_path / "cache", path=str(root))
    assert "odd.png" in target.notice
    assert sum(len(target.split(name)) for name in targets.SPLITS) == 60
