"""What every target must hold; a new file in tools/targets joins by itself."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from memory.errors import DataError
from tests.tools.targets.own_data import class_folders
from tools import targets
from tools.plugins import names
from tools.targets import SPLITS, Target

# Rendering takes time, and some scenes show as much as many.
FEW: dict[str, dict[str, object]] = {"streets": {"sizes": dict.fromkeys(SPLITS, 20)}}

# A copy of the data of CamVid, which is not free enough to come along.
CAMVID = Path(
    os.environ.get("CAMVID_PATH", Path(__file__).parents[3] / "shared" / "data" / "camvid")
)

_BUILT: dict[str, Target] = {}


def options_of(name: str, folder: Path) -> dict[str, object]:
    """What a target needs to be built: for a user's own data, some that are made up."""
    if name == "camvid":
        if not CAMVID.is_dir():
            pytest.skip(f"needs CamVid: no folder {CAMVID}; set CAMVID_PATH")
        return {"path": str(CAMVID)}
    if name in ("folder", "hf"):
        if name == "hf":
            pytest.importorskip("datasets", reason="needs the extra hf")
        return {"path": str(class_folders(folder / "birds", n=20))}
    return FEW.get(name, {})


@pytest.fixture(params=names("tools.targets"))
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Target:
    if request.param not in _BUILT:
        folder: Path = tmp_path_factory.mktemp("targets")
        is_elpv = request.param == "elpv"
        cache: Path = request.getfixturevalue("elpv_cache") if is_elpv else folder / "cache"
        options = options_of(request.param, folder)
        _BUILT[request.param] = targets.build(request.param, cache, **options)
    return _BUILT[request.param]


def test_splits_are_disjoint_and_labelled(target: Target) -> None:
    splits = {name: target.split(name) for name in SPLITS}
    for one, two in combinations(SPLITS, 2):
        assert not set(splits[one].ids) & set(splits[two].ids)
    for split in splits.values():
        assert split.images.shape[1:] == target.image_shape
        assert set(np.unique(split.classes)) == set(range(len(target.class_names)))
        assert bool(target.pixel_classes) == ("segmentation" in split.labels)


def test_attributes_are_of_the_vocabulary_and_imply_the_class(target: Target) -> None:
    split = target.split("feedback")
    for attributes, label in zip(split.attributes, split.classes, strict=True):
        assert target.vocabulary.problems(attributes) == []
        assert target.vocabulary.class_name(attributes) == target.class_names[label]


def test_captions_say_the_attributes(target: Target) -> None:
    for attributes in target.split("audit").attributes[:50]:
        caption = target.vocabulary.caption(attributes)
        assert target.vocabulary.parse(caption) == dict(attributes)


def test_flip_twice_is_no_flip(target: Target) -> None:
    for attributes in target.split("audit").attributes[:100]:
        for horizontal, vertical in ((True, False), (False, True), (True, True)):
            once = target.flip(dict(attributes), horizontal, vertical)
            assert target.flip(once, horizontal, vertical) == attributes


def test_attributes_of_a_mirrored_image_are_the_flipped_ones(target: Target) -> None:
    split = target.split("audit")
    agree = 0
    for image, attributes in zip(split.images, split.attributes, strict=True):
        measured = target.measure(image[:, :, ::-1], attributes)
        flipped = target.flip(dict(attributes), horizontal=True, vertical=False)
        agree += all(flipped.get(key) == value for key, value in measured.items())
    # Rounding may move an image across a threshold.
    assert agree >= 0.97 * len(split)


def test_unknown_split_is_refused_by_name(target: Target) -> None:
    with pytest.raises(DataError, match="split 'validation'"):
        target.split("validation")
