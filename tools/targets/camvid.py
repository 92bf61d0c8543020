"""The target `camvid`: street photographs with pixel labels (Brostow et al. 2009).

PATH contains `train/` and `val/` (JPEG or PNG) and `trainannot/` and `valannot/` (PNG with ids
0..10, 11: void), as in the release of the SegNet tutorial; frames are named SEQUENCE_NUMBER. The
data are CC BY-NC 4.0 and not part of this program. Sequence 0001TP was filmed at dusk, the others
in daylight.
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

from prompts.vocabulary import load_vocabulary
from tools.data.fitted import fit_picture
from tools.data.samples import VOID, Samples
from tools.streets import CLASS_NAMES, HEIGHT, WIDTH, Surface, visible
from tools.targets import SPLITS, Target, check_split
from tools.targets.levels import measure_levels
from tools.targets.splits import SHARES
from tools.targets.user import label_files, pictures
from tools.targets.user.loading import ReadOptions, Size
from tools.targets.user.pictures import UnreadableImageError
from tools.targets.validation import ValidationReport, refusal

# Fixed, so that a photograph's attributes do not depend on the assignment to splits.
BRIGHTNESS = (0.3, 0.45)
GAP = 3
# Frames of val/ are 1/15 s apart, those of train/ one second: every 15th frame of val/ is used.
VAL_STEP = 15
NOTICE = (
    "CamVid (Brostow, Fauqueur, Cipolla 2009; masks as in the SegNet tutorial) is licensed "
    "CC BY-NC 4.0: personal and research use. A model trained on it should be treated alike."
)

_DUSK = "0001TP"
_VOID_ID = 11
_NAME = re.compile(r"(?P<sequence>[^_]+)_f?(?P<number>\d+)")


class CamVid(Target):
    """The target `camvid`; attributes light, brightness, traffic, pedestrians and cyclists."""

    name = "camvid"
    task = "segmentation"
    class_names: Sequence[str] = ("scene",)
    pixel_classes: Sequence[str] = CLASS_NAMES
    flips = ("horizontal",)
    notice = NOTICE

    def __init__(self, root: Path, size: Size, gap: int) -> None:
        self.vocabulary = load_vocabulary("camvid")
        self.image_shape = (3, size[1], size[0])
        self._size = size
        self._frames = _assign_splits(_find_frames(root), gap)
        self._read = cache(self._load)

    def split(self, name: str) -> Samples:
        """Return a split, its frames in temporal order."""
        check_split(name)
        return self._read(name)

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        """Return the brightness; the other attributes are derived from labels."""
        return measure_levels(image, {"brightness": BRIGHTNESS})

    def _load(self, name: str) -> Samples:
        report = ValidationReport()
        images, masks, attributes, ids, sequences = [], [], [], [], []
        for frame in self._frames[name]:
            try:
                picture = pictures.open_picture(frame.image).convert("RGB")
                values = label_files.read_ids(frame.mask)
            except UnreadableImageError as error:
                report.error("label-unreadable", frame.name, files="files", error=error)
                continue
            if values.shape != picture.size[::-1]:
                report.error("label-size", frame.name, files="masks")
            elif values.max() > _VOID_ID:
                report.error("camvid-ids", frame.name, maximum=_VOID_ID)
            else:
                values[values == _VOID_ID] = VOID
                mask = label_files.fit_labels(values.astype(np.uint8), self._size)
                images.append(fit_picture(picture, self._size))
                masks.append(mask)
                ids.append(frame.name)
                sequences.append(frame.sequence)
                attributes.append(self._attributes(frame, images[-1], mask))
        report.raise_errors("of camvid")
        return Samples(
            images=np.stack(images),
            classes=np.zeros(len(images), np.int64),
            attributes=attributes,
            ids=ids,
            labels={"segmentation": np.stack(masks)},
            groups=sequences,
        )

    def _attributes(
        self, frame: _Frame, image: NDArray[np.uint8], mask: NDArray[Any]
    ) -> dict[str, str]:
        return {
            "light": "dusk" if frame.sequence == _DUSK else "day",
            **self.measure(image, {}),
            **visible(mask),
            "cyclists": "some" if (mask == Surface.BICYCLIST).any() else "none",
        }


def build(
    cache_dir: Path,
    path: str | None = None,
    size: int | str | Sequence[int] = (WIDTH, HEIGHT),
    gap: int = GAP,
) -> CamVid:
    """Build the target from the folder `path`.

    Args:
        cache_dir: Not used: frames are read from `path` at every start.
        path: Folder of the data.
        size: Width and height in pixels, multiples of 8; images are cropped to this aspect ratio.
        gap: Number of frames left out between the splits of a sequence.

    Raises:
        DataError: The layout of the folder is not that described above.
    """
    if not path:
        raise refusal("no-path", target="camvid")
    options = ReadOptions.parse("camvid", {"size": size})
    return CamVid(Path(path).expanduser(), options.size or (WIDTH, HEIGHT), gap)


@dataclass(frozen=True)
class _Frame:
    sequence: str
    number: int
    image: Path
    mask: Path

    @property
    def name(self) -> str:
        return self.image.stem


def _find_frames(root: Path) -> dict[str, list[_Frame]]:
    """Return the frames of train/ and val/ in temporal order."""
    report = ValidationReport()
    frames: dict[str, list[_Frame]] = {"train": [], "val": []}
    for part, in_part in frames.items():
        for image in sorted((root / part).glob("*")):
            match = _NAME.fullmatch(image.stem)
            mask = root / f"{part}annot" / f"{image.stem}.png"
            if image.suffix not in (".jpg", ".png") or not match:
                report.error("camvid-name", image.name, part=part)
            elif not mask.is_file():
                report.error("camvid-no-mask", image.name, part=part)
            else:
                in_part.append(_Frame(match["sequence"], int(match["number"]), image, mask))
        in_part.sort(key=lambda frame: (frame.sequence, frame.number))
        if not in_part:
            report.error("camvid-no-image", part=part)
    report.raise_errors(str(root))
    return frames


def _assign_splits(frames: Mapping[str, Sequence[_Frame]], gap: int) -> dict[str, list[_Frame]]:
    """Divide every sequence of train/ into one block per split, `gap` frames apart.

    The frames of val/, a few seconds within the last block of a sequence, go to the test split.
    """
    sequences: dict[str, list[_Frame]] = defaultdict(list)
    for frame in frames["train"]:
        sequences[frame.sequence].append(frame)
    splits: dict[str, list[_Frame]] = {name: [] for name in SPLITS}
    for sequence in sequences.values():
        n = len(sequence) - gap * (len(SPLITS) - 1)
        start = 0
        share = 0.0
        for place, name in enumerate(SPLITS):
            share += SHARES[name]
            end = round(n * share) + gap * place
            splits[name] += sequence[start:end]
            start = end + gap
    splits["test"] += frames["val"][::VAL_STEP]
    return splits
