"""Outlines of LabelMe, a JSON file for each picture, in the form of COCO's."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memory.errors import DataError
from tools.targets.user.coco import Annotations, Entry
from tools.targets.user.pictures import header_size, is_picture
from tools.targets.user.problems import Problems

_CORNERS_OF_CIRCLE = 32


def labelme_files(root: Path, files: Sequence[Path], found: Problems) -> list[Annotations]:
    """Return what files of LabelMe say, by folder; rectangles are boxes, points are left out.

    A file belongs to the picture of its name, beside it or elsewhere. Raises DataError for one
    that cannot be read.
    """
    pictures: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if is_picture(file):
            pictures[file.stem].append(file)
    images: dict[Path, list[Entry]] = defaultdict(list)
    objects: dict[Path, list[Entry]] = defaultdict(list)
    for file in files:
        named = pictures.get(file.stem) or pictures.get(Path(file.stem).stem, [])
        beside = [picture for picture in named if picture.parent == file.parent]
        if file.suffix.lower() != ".json" or len(beside or named) != 1:
            continue
        (picture,) = beside or named
        try:
            data = json.loads(file.read_bytes())
            if not isinstance(data, dict) or not isinstance(data.get("shapes"), list):
                continue
            width, height = data.get("imageWidth"), data.get("imageHeight")
            if not (width and height):
                width, height = header_size(picture)
            said = [_object(file, shape) for shape in data["shapes"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file} cannot be read as outlines of LabelMe ({type(error).__name__}: {error}). "
                "Expected shapes, each with label, shape_type and points."
            ) from error
        name = str(picture.relative_to(root))
        images[file.parent].append(
            {"id": str(file), "file_name": name, "width": width, "height": height}
        )
        objects[file.parent] += [entry for entry in said if entry]
        if None in said:
            found.note("files of LabelMe with points or lines, which are left out", name)
    return [
        Annotations(
            folder / "*.json",
            own,
            objects[folder],
            [{"id": name, "name": name} for name in _labels(objects[folder])],
        )
        for folder, own in images.items()
    ]


def _labels(objects: Sequence[Entry]) -> list[str]:
    return sorted({entry["category_id"] for entry in objects})


def _object(file: Path, shape: Mapping[str, Any]) -> Entry | None:
    """Return a shape as an object of COCO, None for a point or a line."""
    points = [(float(x), float(y)) for x, y in shape["points"]]
    kind = shape.get("shape_type") or "polygon"
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        turns = [2 * math.pi * i / _CORNERS_OF_CIRCLE for i in range(_CORNERS_OF_CIRCLE)]
        points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in turns]
    elif kind not in ("polygon", "rectangle"):
        return None
    xs, ys = zip(*points, strict=True)
    return {
        "image_id": str(file),
        "category_id": str(shape["label"]),
        "bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)],
        "segmentation": [] if kind == "rectangle" else [[c for point in points for c in point]],
    }
