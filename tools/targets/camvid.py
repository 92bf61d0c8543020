"""The target `camvid`: photographs of streets, every pixel labelled (Brostow et al. 2009).

PATH holds `train/` and `val/` (JPEG or PNG) and `trainannot/` and `valannot/` (PNG of ids 0..10,
11: void), as in the SegNet tutorial's release; frames are named SEQUENCE_NUMBER. The data are
CC BY-NC 4.0 and no part of this program. Sequence 0001TP was filmed at dusk, the others by day.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.errors import DataError, unknown
from prompts.vocabulary import load_vocabulary
from tools.data.samples import VOID, Samples
from tools.streets import BICYCLIST, CLASS_NAMES, HEIGHT, WIDTH, visible
from tools.targets import SPLITS
from tools.targets.elpv import SHARES
from tools.targets.user import levels
from tools.targets.user import pictures as pictures
from tools.targets.user.options import options_of
from tools.targets.user.pictures import Unusable
from tools.targets.user.problems import Problems

# Fixed, so that a photograph's words do not depend on how the frames were dealt.
BRIGHTNESS = (0.3, 0.45)
GAP = 3
# Frames of val/ are 1/15 s apart, those of train/ one second: one in so many is used.
VAL_STEP = 15
NOTICE = (
    "CamVid (Brostow, Fauqueur, Cipolla 2009; masks as in the SegNet tutorial) is licensed "
    "CC BY-NC 4.0: personal and research use. A model trained on it should be treated alike."
)

_DUSK = "0001TP"
_VOID_ID = 11
_NAME = re.compile(r"(?P<sequence>[^_]+)_f?(?P<number>\d+)")


class CamVid:
    """The target `camvid`; attributes light, brightness, traffic, pedestrians and cyclists."""

    name = "camvid"
    task = "segmentation"
    class_names: Sequence[str] = ("scene",)
    pixel_classes: Sequence[str] = CLASS_NAMES
    flips = ("horizontal",)
    notice = NOTICE

    def __init__(self, root: Path, size: tuple[int, int], gap: int) -> None:
        self.vocabulary = load_vocabulary("camvid")
        self.image_shape = (3, size[1], size[0])
        self._size = size
        self._frames = _deal(_frames(root), gap)
        self._read = cache(self._load)

    def split(self, name: str) -> Samples:
        """Return a split, its frames in the order of time."""
        if name not in SPLITS:
            raise DataError(unknown("split", name, SPLITS))
        return self._read(name)

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        """Return the attributes as they are: none has a side."""
        return attributes

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        """Return the brightness; what else a street shows is read from its labels."""
        return levels.measured(image, {"brightness": BRIGHTNESS})

    def _load(self, name: str) -> Samples:
        found = Problems()
        images, masks, attributes, ids = [], [], [], []
        for frame in self._frames[name]:
            try:
                picture = pictures.open_picture(frame.image).convert("RGB")
                values = pictures.ids(frame.mask)
            except Unusable as problem:
                found.fault(f"files {problem}", frame.name)
                continue
            if values.shape != picture.size[::-1]:
                found.fault("masks of another size than their image", frame.name)
            elif values.max() > _VOID_ID:
                found.fault(f"masks with ids above {_VOID_ID}", frame.name)
            else:
                values[values == _VOID_ID] = VOID
                mask = pictures.fitted_labels(values.astype(np.uint8), self._size)
                images.append(pictures.fitted(picture, self._size))
                masks.append(mask)
                ids.append(frame.name)
                attributes.append(self._attributes(frame, images[-1], mask))
        found.stop("of camvid")
        return Samples(
            images=np.stack(images),
            classes=np.zeros(len(images), np.int64),
            attributes=attributes,
            ids=ids,
            labels={"segmentation": np.stack(masks)},
        )

    def _attributes(
        self, frame: _Frame, image: NDArray[np.uint8], mask: NDArray[Any]
    ) -> dict[str, str]:
        return {
            "light": "dusk" if frame.sequence == _DUSK else "day",
            **self.measure(image, {}),
            **visible(mask),
            "cyclists": "some" if (mask == BICYCLIST).any() else "none",
        }


def build(
    cache_dir: Path,
    path: str | None = None,
    size: int | str | Sequence[int] = (WIDTH, HEIGHT),
    gap: int = GAP,
) -> CamVid:
    """Build the target from the folder `path`.

    size: width and height, in whole multiples of 8; what is too high or too wide is cut off on
    both sides. gap: frames that are left out between the splits of a sequence. Raises DataError
    when the folder is not as the head of this file says.
    """
    if not path:
        raise DataError("The target camvid needs to know where: --target camvid:PATH.")
    options = options_of(None, size, VOID, 1, (), 0)
    assert options.size is not None
    return CamVid(Path(path).expanduser(), options.size, gap)


@dataclass(frozen=True)
class _Frame:
    sequence: str
    number: int
    image: Path
    mask: Path

    @property
    def name(self) -> str:
        return self.image.stem


def _frames(root: Path) -> dict[str, list[_Frame]]:
    """Return the frames of train/ and val/ in the order of time."""
    found = Problems()
    frames: dict[str, list[_Frame]] = {"train": [], "val": []}
    for part, own in frames.items():
        for image in sorted((root / part).glob("*")):
            match = _NAME.fullmatch(image.stem)
            mask = root / f"{part}annot" / f"{image.stem}.png"
            if image.suffix not in (".jpg", ".png") or not match:
                found.fault(f"files in {part}/ that are no SEQUENCE_NUMBER.jpg or .png", image.name)
            elif not mask.is_file():
                found.fault(f"images without a mask in {part}annot/", image.name)
            else:
                own.append(_Frame(match["sequence"], int(match["number"]), image, mask))
        own.sort(key=lambda frame: (frame.sequence, frame.number))
        if not own:
            found.fault(
                f"there is no image in {part}/: expected train/, trainannot/, val/, valannot/"
            )
    found.stop(str(root))
    return frames


def _deal(frames: Mapping[str, Sequence[_Frame]], gap: int) -> dict[str, list[_Frame]]:
    """Cut every sequence of train/ into one block for each split, `gap` frames between them.

    val/, a few seconds within the last block of a sequence, goes to the test split.
    """
    sequences: dict[str, list[_Frame]] = defaultdict(list)
    for frame in frames["train"]:
        sequences[frame.sequence].append(frame)
    dealt: dict[str, list[_Frame]] = {name: [] for name in SPLITS}
    for own in sequences.values():
        n = len(own) - gap * (len(SPLITS) - 1)
        start = 0
        share = 0.0
        for place, name in enumerate(SPLITS):
            share += SHARES[name]
            end = round(n * share) + gap * place
            dealt[name] += own[start:end]
            start = end + gap
    dealt["test"] += frames["val"][::VAL_STEP]
    return dealt
