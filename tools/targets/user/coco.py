"""Annotations of COCO, `instances_*.json` and its like: outlines of objects, read as masks."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.errors import DataError
from prompts.own_words import plain, value_of
from tools.data.samples import VOID
from tools.targets.splits import split_word
from tools.targets.user.loading import Item
from tools.targets.user.outlines import region
from tools.targets.user.pictures import Unusable, is_of_a_picture, is_picture, picture_stems
from tools.targets.user.problems import Problems

_HEAD = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')
_HEAD_BYTES = 1 << 16
_BACKGROUND = "background"
_FORM = (
    "Expected the form of COCO: images with id, file_name, width and height; annotations with "
    "image_id, category_id and segmentation; categories with id and name."
)

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Annotations:
    """A file of COCO: the pictures that it knows, its objects, and the names of these."""

    path: Path
    images: Sequence[Entry]
    objects: Sequence[Entry]
    categories: Sequence[Entry]

    @property
    def split(self) -> str | None:
        """The split that the file's name says, as of instances_val2017.json."""
        return split_word(self.path.stem.rpartition("_")[2])


def coco_files(files: Sequence[Path]) -> list[Annotations]:
    """Return the files that describe pictures as COCO does; of several kinds instances alone.

    Raises DataError for one that cannot be read.
    """
    stems = picture_stems(files)
    found = []
    for file in files:
        # LabelMe has one for each picture.
        if file.suffix.lower() != ".json" or is_of_a_picture(file, stems):
            continue
        try:
            with file.open("rb") as handle:
                if not _HEAD.search(handle.read(_HEAD_BYTES)):
                    continue
            data = json.loads(file.read_bytes())
            parts = [data.get(part) for part in ("images", "annotations", "categories")]
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{file} cannot be read as JSON ({error}). {_FORM}") from error
        if all(isinstance(part, list) for part in parts):
            found.append(Annotations(file, *parts))
    instances = [one for one in found if one.path.stem.lower().startswith("instances")]
    return instances or found


def coco_items(
    root: Path, files: Sequence[Path], annotated: Sequence[Annotations], found: Problems
) -> tuple[list[Item], dict[int, str]] | None:
    """Return all pictures, those that `annotated` knows with masks, and the names of the ids.

    What no outline covers is the class background, an object of which only the box is known is of
    unknown class. None where no picture of theirs is there. Raises DataError where all objects
    have boxes only.
    """
    pictures = [file for file in files if is_picture(file)]
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in pictures:
        by_name[file.name].append(file)
    masks: dict[Path, partial[NDArray[np.int32]]] = {}
    splits: dict[Path, str | None] = {}
    ids = {_BACKGROUND: 0}
    names = {0: _BACKGROUND}
    n_objects = n_boxes = 0
    for one in annotated:
        try:
            titles = {entry["id"]: plain(str(entry["name"])) for entry in one.categories}
            objects: dict[Any, list[Entry]] = defaultdict(list)
            for entry in one.objects:
                objects[entry["image_id"]].append(entry)
                n_boxes += not entry.get("segmentation")
            n_objects += len(one.objects)
            used = {entry["category_id"] for entry in one.objects}
            for category, title in titles.items():
                if category in used:
                    names.setdefault(ids.setdefault(value_of(title), len(ids)), title)
            for image in one.images:
                picture = _picture_of(str(image["file_name"]), one, by_name, root, found)
                if picture is None:
                    continue
                shapes = []
                for entry in sorted(objects[image["id"]], key=_area, reverse=True):
                    number = ids[value_of(titles[entry["category_id"]])]
                    shapes.append((number, entry.get("segmentation"), entry.get("bbox")))
                if picture in masks:
                    found.fault(
                        "pictures that two files of outlines know: keep one",
                        str(picture.relative_to(root)),
                    )
                masks[picture] = partial(_mask, image["width"], image["height"], shapes)
                splits[picture] = one.split
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{one.path} cannot be read as outlines ({type(error).__name__}: {error}). {_FORM}"
            ) from error
    if not masks:
        return None
    listed = ", ".join(str(one.path.relative_to(root)) for one in annotated)
    if n_boxes == n_objects:
        raise DataError(
            f"{listed} of {root} holds {'boxes' if n_objects else 'no objects'} and no outlines, "
            "and where an object ends within its box is not known. Labels of pixels are needed "
            "(outlines under segmentation, or masks/ beside images/), or a class for each image. "
            "Where folders or the column class of attributes.csv say it, give --set "
            "target.options.task=classification."
        )
    if len(names) > VOID:
        raise DataError(f"{listed} of {root} has {len(names)} classes, at most {VOID} can be told.")
    found.note(
        f"masks are made of the outlines in {listed}; what no outline covers is the class "
        f"{_BACKGROUND}"
    )
    if n_boxes:
        found.note(f"{n_boxes} objects have a box and no outline: their boxes are of unknown class")
    items = []
    for file in pictures:
        folders = file.relative_to(root).parts[:-1]
        said = [splits.get(file), *(split_word(folder) for folder in folders)]
        items.append(
            Item(
                str(file.relative_to(root)),
                file,
                split=next((word for word in said if word), None),
                labels={"segmentation": masks[file]} if file in masks else {},
            )
        )
    return items, names


def _picture_of(
    name: str, one: Annotations, by_name: Mapping[str, list[Path]], root: Path, found: Problems
) -> Path | None:
    """Return the picture that an entry means, by the end of its path and by its split."""
    said = Path(name.replace("\\", "/"))
    fitting = by_name.get(said.name, [])
    for narrower in (
        [p for p in fitting if p in (one.path.parent / said, root / said)],
        [p for p in fitting if p.is_relative_to(one.path.parent)],
        [p for p in fitting if one.split and one.split in map(split_word, p.parent.parts)],
        [p for p in fitting if str(p).endswith(f"/{said}")],
    ):
        if len(fitting) > 1 and narrower:
            fitting = narrower
    if len(fitting) > 1:
        found.fault("pictures that a file of outlines may mean by one name: rename one", name)
    elif not fitting:
        found.note(f"pictures of {one.path.relative_to(root)} that are not there", name)
    return fitting[0] if fitting else None


def _area(entry: Entry) -> float:
    """Return the area of an object: small ones are seen before large ones."""
    box = entry.get("bbox") or [0, 0, 0, 0]
    return float(entry.get("area") or box[2] * box[3])


def _mask(width: int, height: int, shapes: Sequence[tuple[int, Any, Any]]) -> NDArray[np.int32]:
    """Paint the objects of a picture, the first below: (height, width), ids of classes.

    shapes: of each its id, outlines and box. Raises Unusable.
    """
    mask = np.zeros((height, width), np.int32)
    for _, outlines, box in shapes:
        if not outlines and box:
            x, y, w, h = (float(value) for value in box)
            mask[round(max(y, 0)) : round(y + h), round(max(x, 0)) : round(x + w)] = VOID
    for number, outlines, _ in shapes:
        if outlines:
            try:
                mask[region(outlines, width, height)] = number
            except (KeyError, TypeError, ValueError) as error:
                raise Unusable(f"of outlines that cannot be read ({error})") from error
    return mask
