from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from memory.errors import DataError
from prompts.vocabulary import load_vocabulary
from tools import targets
from tools.data.samples import VOID
from tools.targets import SPLITS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Frames in the layout of CamVid: 40 at dusk, 40 by day, and 30 of val/."""
    random = np.random.default_rng(0)
    for part, frames in (
        ("train", [f"0001TP_{n:06d}" for n in range(0, 1200, 30)]),
        ("train", [f"0006R0_f{n:05d}" for n in range(0, 1200, 30)]),
        ("val", [f"0016E5_{n:05d}" for n in range(0, 60, 2)]),
    ):
        for folder in (part, f"{part}annot"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for name in frames:
            dusk = name.startswith("0001TP")
            pixels = random.integers(0, 60 if dusk else 255, (36, 48, 3)).astype(np.uint8)
            mask = np.full((36, 48), 3, np.uint8)
            mask[:4] = 11
            mask[20:24, 10:14] = 10
            Image.fromarray(pixels).save(tmp_path / part / f"{name}.jpg")
            Image.fromarray(mask).save(tmp_path / f"{part}annot" / f"{name}.png")
    return tmp_path


def test_splits_are_blocks_of_time_with_gaps(root: Path) -> None:
    target = targets.build("camvid", root, path=str(root), gap=3)
    assert target.image_shape == (3, 64, 96)
    owner = {name: split for split in SPLITS for name in target.split(split).ids}
    for sequence, pattern in (("0001TP", "0001TP_{:06d}"), ("0006R0", "0006R0_f{:05d}")):
        order = [owner.get(pattern.format(n), "") for n in range(0, 1200, 30)]
        blocks = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
        assert blocks == ["generator", "", "audit", "", "feedback", "", "test"], sequence
        assert order.count("") == 9
    # Two frames of val/, a second apart.
    assert sum(name.startswith("0016E5") for name in target.split("test").ids) == 2


def test_masks_and_words(root: Path) -> None:
    target = targets.build("camvid", root, path=str(root), size="48x32")
    split = target.split("feedback")
    assert set(np.unique(split.labels["segmentation"])) == {3, 10, VOID}
    assert {(a["light"], a["brightness"]) for a in split.attributes} == {
        ("dusk", "dark"),
        ("day", "bright"),
    }
    assert {a["cyclists"] for a in split.attributes} == {"some"}


def test_words_are_those_of_streets() -> None:
    streets, camvid = load_vocabulary("streets").attributes, load_vocabulary("camvid").attributes
    for key in ("light", "traffic", "pedestrians"):
        assert all(streets[key][value] == said for value, said in camvid[key].items())


def test_what_is_missing_or_wrong_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"\[no-path\] .*--target camvid:PATH"):
        targets.build("camvid", root)
    with pytest.raises(DataError, match="there is no image in train/"):
        targets.build("camvid", root, path=str(root / "none"))
    mask = root / "valannot" / "0016E5_00000.png"
    Image.new("L", (48, 36), 12).save(mask)
    target = targets.build("camvid", root, path=str(root))
    with pytest.raises(DataError, match=r'\[camvid-ids\] \(1\): "0016E5_00000"'):
        target.split("test")
    mask.unlink()
    with pytest.raises(DataError, match=r'valannot/ \[camvid-no-mask\] \(1\): "0016E5_00000.jpg"'):
        targets.build("camvid", root, path=str(root))
