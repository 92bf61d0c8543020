"""Class names of public data whose masks come without them, told by the names of the files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.targets.user.pictures import Source

_CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
    19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class PublicClasses:
    """Names of the ids in masks of a public data set, those that do not count called void."""

    source: str
    names: Mapping[int, str]


# Patterns of a mask's path; VOC numbers its pictures by year, which copies of its folders do not.
_KNOWN = (
    (
        re.compile(r".*_gt(?:Fine|Coarse)_labelIds\.png"),
        PublicClasses("Cityscapes", {i: _CITYSCAPES.get(i, "void") for i in range(34)}),
    ),
    (
        re.compile(r".*_gt(?:Fine|Coarse)_labelTrainIds\.png"),
        PublicClasses("Cityscapes", dict(enumerate(_CITYSCAPES.values()))),
    ),
    (
        re.compile(r".*\bSegmentationClass/20\d\d_\d{6}\.png"),
        PublicClasses("VOC", dict(enumerate(_VOC))),
    ),
)


def public_classes(masks: Sequence[Source]) -> PublicClasses | None:
    """Return the names of the data set that these masks are of, or None."""
    paths = [mask.as_posix() for mask in masks if isinstance(mask, Path)]
    if not paths or len(paths) < len(masks):
        return None
    for pattern, known in _KNOWN:
        if all(pattern.fullmatch(path) for path in paths):
            return known
    return None
