"""Conversion of object outlines in COCO and LabelMe files to masks."""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ValidationError

from prompts.user_vocabulary import first_alike, plain, value_of
from tools.data.regions import draw_region, run_lengths
from tools.data.samples import VOID
from tools.targets.splits import split_from_name
from tools.targets.user import label_files, pictures
from tools.targets.user.loading import Item
from tools.targets.user.pictures import UnreadableImageError, is_picture
from tools.targets.validation import ValidationReport, refusal, text

_HEAD = re.compile(rb'"(?:images|annotations|categories)"\s*:\s*\[')
_HEAD_BYTES = 1 << 16
_BACKGROUND = "background"
_CIRCLE_CORNERS = 32


# Fields of third-party files, which may be missing, null, text or NaN.


def _read_id(value: object) -> object:
    """Convert 1, 1.0 and "1" to "1"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | str) and not isinstance(value, bool):
        return str(value)
    raise ValueError("expected a number or text")


def _read_number(value: Any) -> float | None:
    """Return a finite number, None for anything else."""
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return None


def _read_box(value: Any) -> tuple[float, ...] | None:
    """Return (x, y, width, height), None if any of them is unknown."""
    numbers = [_read_number(v) for v in value] if isinstance(value, list | tuple) else []
    known = tuple(number for number in numbers if number is not None)
    return known if len(known) == len(numbers) == 4 else None


def _drop_empty(value: Any) -> Any:
    return [outline for outline in value if outline != []] if isinstance(value, list) else value


def _check_name(name: str) -> str:
    if not plain(name):
        raise ValueError("it has no letter or digit")
    return name


_Id = Annotated[str, BeforeValidator(_read_id)]
_Number = Annotated[float | None, BeforeValidator(_read_number)]


class _Image(BaseModel):
    id: _Id
    file_name: _Id
    width: _Number = None
    height: _Number = None


class _Object(BaseModel):
    image_id: _Id
    category_id: _Id
    segmentation: Annotated[Any, BeforeValidator(_drop_empty)] = None
    bbox: Annotated[tuple[float, ...] | None, BeforeValidator(_read_box)] = None
    area: _Number = None

    def size(self) -> float:
        """Return the area in pixels, for painting small objects over large ones."""
        return self.area or (self.bbox[2] * self.bbox[3] if self.bbox else 0.0)


class _Category(BaseModel):
    id: _Id
    name: _Id


class _Shape(BaseModel):
    label: Annotated[_Id, AfterValidator(_check_name)]
    shape_type: str | None = None
    mask: str | None = None
    points: list[tuple[float, float]]


class _Coco(BaseModel):
    images: list[_Image]
    annotations: list[_Object]
    categories: list[_Category]


class _LabelMe(BaseModel):
    shapes: list[_Shape]
    imageWidth: _Number = None
    imageHeight: _Number = None


_Form = TypeVar("_Form", _Coco, _LabelMe)


def _parse(form: type[_Form], data: object, path: Path) -> _Form:
    """Validate the records of a file; raises a DataError that names the file and the record."""
    try:
        return form.model_validate(data)
    except ValidationError as error:
        problem = error.errors()[0]
        raise refusal(
            "annotation-record",
            path=path,
            place=".".join(map(str, problem["loc"])),
            value=repr(problem["input"])[:80],
            error=problem["msg"],
            form=text("coco-form" if form is _Coco else "labelme-form"),
        ) from error


def _read_json(file: Path, *lists: str, head: re.Pattern[bytes] | None = None) -> object:
    """Return the content of a JSON file, None if one of the lists is missing.

    Args:
        file: Path of the file.
        lists: Required keys of lists.
        head: Pattern that the beginning must match; other files, which may be large, are not read
            further.
    """
    try:
        with file.open("rb") as handle:
            if head and not head.search(handle.read(_HEAD_BYTES)):
                return None
        data = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise refusal("annotation-json", path=file, error=error) from error
    is_form = isinstance(data, dict) and all(isinstance(data.get(key), list) for key in lists)
    return data if is_form else None


@dataclass(frozen=True)
class Annotations:
    """A COCO file, or the LabelMe files of a folder converted to COCO records."""

    path: Path
    records: _Coco

    @property
    def split(self) -> str | None:
        """Split in the file name, such as instances_val2017.json; None without one."""
        return split_from_name(self.path.stem.rpartition("_")[2])


def outlined_items(
    root: Path, files: Sequence[Path], report: ValidationReport
) -> tuple[list[Item], dict[int, str]] | None:
    """Return all pictures, with masks for those with outlines, and the class names by id.

    Pixels without an outline are of the class background; objects with only a box are of unknown
    class.

    Args:
        root: Folder of the data.
        files: All files in `root`.
        report: Collects problems of individual pictures.

    Returns:
        Items and class names; None if no picture has annotations.

    Raises:
        DataError: A file cannot be read, or has only boxes; the message names file and record.
    """
    annotated = _coco_files(files) or _labelme_files(root, files, report)
    image_files = [file for file in files if is_picture(file)]
    by_name: dict[str, list[Path]] = defaultdict(list)
    for file in image_files:
        for name in {file.name, _folded(file.name)}:
            by_name[name].append(file)
    masks: dict[Path, partial[NDArray[np.int32]]] = {}
    splits: dict[Path, str | None] = {}
    ids = {_BACKGROUND: 0}
    names = {0: _BACKGROUND}
    for one in annotated:
        titles = _add_classes(one, ids, names)
        objects: dict[str, list[_Object]] = defaultdict(list)
        for entry in one.records.annotations:
            objects[entry.image_id].append(entry)
        for image in one.records.images:
            regions = sorted(objects[image.id], key=_Object.size, reverse=True)
            picture = _find_picture(image.file_name, one, by_name, root, report)
            if picture is None:
                continue
            if unknown := [r.category_id for r in regions if r.category_id not in titles]:
                values = {"category": unknown[0], "image": image.file_name}
                raise refusal("annotation-category", path=one.path, **values)
            if picture in masks:
                report.error("annotation-twice", str(picture.relative_to(root)))
            numbers = [ids[value_of(titles[r.category_id])] for r in regions]
            masks[picture] = partial(_paint, picture, image, numbers, regions)
            splits[picture] = one.split
        if orphans := objects.keys() - {image.id for image in one.records.images}:
            report.warn("annotation-orphans", *orphans, file=one.path.relative_to(root))
    if not masks:
        return None
    _check_objects(root, annotated, names, report)
    items = []
    for file in image_files:
        folders = file.relative_to(root).parts[:-1]
        given = [splits.get(file), *(split_from_name(folder) for folder in folders)]
        items.append(
            Item(
                str(file.relative_to(root)),
                file,
                split=next((split for split in given if split), None),
                labels={"segmentation": masks[file]} if file in masks else {},
            )
        )
    return items, names


def _add_classes(one: Annotations, ids: dict[str, int], names: dict[int, str]) -> dict[str, str]:
    """Assign ids to the categories in use; return the class names by category."""
    used = {entry.category_id for entry in one.records.annotations}
    titles = {category.id: plain(category.name) for category in one.records.categories}
    for category, title in titles.items():
        if category in used:
            if not title:
                raise refusal("annotation-name", path=one.path, category=category)
            names.setdefault(ids.setdefault(value_of(title), len(ids)), title)
    return titles


def _check_objects(
    root: Path, annotated: Sequence[Annotations], names: Mapping[int, str], report: ValidationReport
) -> None:
    listed = ", ".join(str(one.path.relative_to(root)) for one in annotated)
    objects = [entry for one in annotated for entry in one.records.annotations]
    boxes = [entry for entry in objects if not entry.segmentation]
    if len(boxes) == len(objects):
        content = "boxes" if objects else "no objects"
        raise refusal("annotation-boxes", files=listed, root=root, content=content)
    if len(names) > VOID:
        raise refusal("annotation-classes", files=listed, root=root, n=len(names), maximum=VOID)
    titles = (
        category.name
        for one in annotated
        for category in one.records.categories
        if category.id in {entry.category_id for entry in one.records.annotations}
    )
    if alike := first_alike(titles):
        report.error("classes-alike", *alike)
    report.warn("outlines", files=listed)
    if boxes:
        report.warn("boxes", n=len(boxes))


def _folded(name: str) -> str:
    """Return a case-folded file name in NFC, with a prefix that no file name has."""
    return f"/{pictures.composed(name).casefold()}"


def _find_picture(
    name: str,
    one: Annotations,
    by_name: Mapping[str, Sequence[Path]],
    root: Path,
    report: ValidationReport,
) -> Path | None:
    """Return the picture that an annotation file references, by the end of its path and split."""
    path = Path(name.replace("\\", "/"))
    fitting = by_name.get(path.name) or by_name.get(_folded(path.name), ())
    for narrower in (
        [p for p in fitting if p in (one.path.parent / path, root / path)],
        [p for p in fitting if p.is_relative_to(one.path.parent)],
        [p for p in fitting if one.split and one.split in map(split_from_name, p.parent.parts)],
        [p for p in fitting if str(p).endswith(f"/{path}")],
    ):
        if len(fitting) > 1 and narrower:
            fitting = narrower
    if len(fitting) > 1:
        report.error("annotation-ambiguous", name)
    elif not fitting:
        report.warn("annotation-missing", name, file=one.path.relative_to(root))
    return fitting[0] if fitting else None


def _paint(
    picture: Path, image: _Image, numbers: Sequence[int], regions: Sequence[_Object]
) -> NDArray[np.int32]:
    """Paint the objects of a picture in order, later ones on top.

    Args:
        picture: File of the picture.
        image: Record of the picture with the size that outlines refer to; by default that of the
            file.
        numbers: Class id of each object.
        regions: The objects.

    Returns:
        Class ids, (height, width).

    Raises:
        UnreadableImageError: An outline cannot be read, or refers to another image size.
    """
    size = pictures.header_size(picture, pictures.LIMIT_PIXELS)
    width, height = int(image.width or 0), int(image.height or 0)
    if min(width, height) < 1:
        width, height = size
    # A mask of this size is allocated, so the annotation alone is not trusted.
    if sorted((width, height)) != sorted(size):
        raise UnreadableImageError(
            f"of {width}x{height} pixels by their annotation, of an image of {size[0]}x{size[1]}: "
            "annotate the image as it is, or save it in that size"
        )
    mask = np.zeros((height, width), np.int32)
    for entry in regions:
        if not entry.segmentation and entry.bbox:
            x, y, w, h = entry.bbox
            mask[round(max(y, 0)) : round(y + h), round(max(x, 0)) : round(x + w)] = VOID
    for number, entry in zip(numbers, regions, strict=True):
        if entry.segmentation:
            try:
                mask[draw_region(entry.segmentation, width, height)] = number
            except (KeyError, TypeError, ValueError) as error:
                raise UnreadableImageError(f"of outlines that cannot be read ({error})") from error
    return mask


def _coco_files(files: Sequence[Path]) -> list[Annotations]:
    """Return the COCO files; if some are named instances, only these."""
    stems = pictures.picture_stems(files)
    contents: dict[Path, object] = {}
    for file in files:
        # LabelMe has one file per picture.
        if file.suffix.lower() != ".json" or pictures.belongs_to_picture(file, stems):
            continue
        if data := _read_json(file, "images", "annotations", "categories", head=_HEAD):
            contents[file] = data
    instances = [file for file in contents if file.stem.lower().startswith("instances")]
    return [Annotations(f, _parse(_Coco, contents[f], f)) for f in instances or contents]


def _labelme_files(
    root: Path, files: Sequence[Path], report: ValidationReport
) -> list[Annotations]:
    """Return the LabelMe files by folder; rectangles are boxes, points and lines are left out.

    A file belongs to the picture of the same name, in the same or another folder.
    """
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        if is_picture(file):
            by_stem[pictures.composed(file.stem)].append(file)
    folders: dict[Path, _Coco] = defaultdict(
        lambda: _Coco(images=[], annotations=[], categories=[])
    )
    for file in files:
        stem = pictures.composed(file.stem)
        named = by_stem.get(stem) or by_stem.get(Path(stem).stem, [])
        named = [picture for picture in named if picture.parent == file.parent] or named
        if file.suffix.lower() != ".json" or len(named) != 1:
            continue
        if data := _read_json(file, "shapes"):
            one, records = _parse(_LabelMe, data, file), folders[file.parent]
            name = str(named[0].relative_to(root))
            size = {"width": one.imageWidth, "height": one.imageHeight}
            records.images.append(_Image(id=str(file), file_name=name, **size))
            try:
                objects = [o for s in one.shapes if (o := _object_of(str(file), s, one))]
            except (ValueError, UnreadableImageError) as error:
                raise refusal("annotation-json", path=file, error=error) from error
            records.annotations.extend(objects)
            if len(objects) < len(one.shapes):
                report.warn("shapes-without-area", name)
    for records in folders.values():
        labels = sorted({entry.category_id for entry in records.annotations})
        records.categories.extend(_Category(id=label, name=label) for label in labels)
    return [Annotations(folder / "*.json", records) for folder, records in folders.items()]


def _object_of(file: str, shape: _Shape, within: _LabelMe) -> _Object | None:
    """Convert a shape to a COCO object, None for one without an area.

    Raises:
        ValueError: A mask cannot be read; also UnreadableImageError.
    """
    points = shape.points
    kind = shape.shape_type or "polygon"
    if kind == "mask" and shape.mask and points:
        counts = _counts_of_mask(shape.mask, points[0], within)
        area = sum(counts[1::2])
        region = {"counts": counts} if area else None
        return _Object(image_id=file, category_id=shape.label, segmentation=region, area=area)
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = [2 * math.pi * i / _CIRCLE_CORNERS for i in range(_CIRCLE_CORNERS)]
        points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
    elif kind not in ("polygon", "rectangle") or len(points) < 2 + (kind == "polygon"):
        return None
    xs, ys = zip(*points, strict=True)
    return _Object(
        image_id=file,
        category_id=shape.label,
        bbox=(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)),
        segmentation=[] if kind == "rectangle" else [[c for point in points for c in point]],
    )


def _counts_of_mask(content: str, corner: tuple[float, float], within: _LabelMe) -> Sequence[int]:
    """Convert a LabelMe mask, a base64 PNG placed at its upper left corner, to run lengths."""
    width, height = int(within.imageWidth or 0), int(within.imageHeight or 0)
    if not 0 < width * height <= pictures.LIMIT_PIXELS or min(width, height) < 1:
        raise ValueError("a mask without the size of its image")
    inside = label_files.read_mask(b64decode(content, validate=True)) != 0
    left, top = (round(number) for number in corner)
    covered = np.zeros((height, width), bool)
    place = covered[max(top, 0) : top + len(inside), max(left, 0) : left + inside.shape[1]]
    place[:] = inside[: len(place), : place.shape[1]]
    return run_lengths(covered)
