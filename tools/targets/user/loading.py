"""A user's photographs with their metadata, and loading them at one size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from memory.errors import SettingsError, unknown
from tools.data.samples import VOID
from tools.settings import BOTH_FLIPS
from tools.targets import reading
from tools.targets.user import label_files, pictures
from tools.targets.user.label_files import LABEL_FORMATS, LABEL_NAMES
from tools.targets.user.pictures import Source, UnreadableImageError
from tools.targets.validation import ValidationReport, refusal

Size = tuple[int, int]

DEPTH_SCALE = 256
_CLASS_SIZE = (64, 64)
_LONGEST_SIDE = 96
_MULTIPLE = 8
# Minimum visible fraction after cropping, and minimum side in pixels, without a warning.
_MIN_VISIBLE = 0.5
_MIN_PIXELS = 8


def _read_size(size: object) -> object:
    """Parse a number of pixels, "WIDTHxHEIGHT", or a pair, to (width, height)."""
    if size is None:
        return None
    parts = size.lower().split("x") if isinstance(size, str) else size
    try:
        sides = [parts, parts] if isinstance(parts, int) else [int(s) for s in parts]  # type: ignore[attr-defined]
        width, height = sides * 2 if len(sides) == 1 else sides
    except (TypeError, ValueError):
        width = height = 0
    if any(side < _MULTIPLE or side % _MULTIPLE for side in (width, height)):
        raise ValueError(f"expected pixels or WIDTHxHEIGHT, as 96x64, in multiples of {_MULTIPLE}")
    return width, height


def _read_flips(value: object) -> object:
    named = {"none": (), "both": BOTH_FLIPS} | {name: (name,) for name in BOTH_FLIPS}
    if isinstance(value, str) and value not in named:
        raise ValueError("expected none, horizontal, vertical or both")
    return named[value] if isinstance(value, str) else _as_tuple(value)


def _as_tuple(value: object) -> object:
    if isinstance(value, list | tuple):
        return tuple(value)
    return (value,)


class ReadOptions(BaseModel):
    """`target.options` of a user's own data, which control reading.

    Attributes:
        task: Task; None: derived from the labels.
        size: (width, height) in pixels; None: 64x64 for image classes, and 96 on the longer side
            for pixel labels.
        void: Ids of pixels of unknown class.
        depth_scale: Divisor of the values in 16-bit depth files; 1000 for millimetres.
        flips: "none", "horizontal", "vertical" or "both": directions in which a mirrored image is
            as plausible as the image and of the same class. Generator, DSTM and audit are trained
            on mirrored images, and predictions are averaged over these views.
        seed: Seed of the assignment to splits.
        max_pixels: Photographs with more pixels are left out without decoding; labels with more are
            an error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: Literal["classification", "segmentation", "depth", "normals"] | None = None
    size: Annotated[Size | None, BeforeValidator(_read_size)] = None
    void: Annotated[tuple[int, ...], BeforeValidator(_as_tuple)] = (VOID,)
    depth_scale: float = Field(DEPTH_SCALE, gt=0)
    flips: Annotated[
        tuple[Literal["horizontal", "vertical"], ...], BeforeValidator(_read_flips)
    ] = ("horizontal",)
    seed: int = Field(0, ge=0)
    max_pixels: int = Field(pictures.MAX_PIXELS, gt=0, le=pictures.LIMIT_PIXELS)

    @classmethod
    def parse(cls, target: str, options: Mapping[str, object]) -> Self:
        """Validate the options of a target.

        Raises:
            SettingsError: The target has no such option.
            DataError: The value of an option is invalid.
        """
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            problem = error.errors()[0]
            key = str(problem["loc"][0])
            if problem["type"] == "extra_forbidden":
                message = unknown("option", key, ["path", "name", *cls.model_fields])
                raise SettingsError(f"{message} They are options of {target!r}.") from error
            message = problem["msg"].removeprefix("Value error, ")
            raise refusal("option", key=key, value=options[key], error=message) from error


@dataclass(frozen=True)
class Item:
    """A photograph with its owner's information about it.

    Attributes:
        name: Unique name in the data.
        picture: File or content.
        class_name: Class, formatted by `plain`; None without one.
        split: A value of `splits.SPLIT_NAMES`; None: to be assigned.
        group: Group name, shared by near-copies; None without one.
        attributes: Cells of the owner's table by column.
        labels: Pixel labels by kind.
    """

    name: str
    picture: Source
    class_name: str | None = None
    split: str | None = None
    group: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """A photograph at its working size.

    Attributes:
        item: The owner's information about it.
        image: (1 or 3, height, width); floats for 16 bits, until all images are scaled to 8 bits.
        labels: (height, width), or (3, height, width) for normals; masks contain ids or colours of
            files.
        ids: Ids in the uncropped mask.
        solid: Ids of regions in which some pixel has four equal neighbours.
        palette: Colours 0xRRGGBB by id, for a mask with a palette.
        marks: Digest of the pixels, and the owner's group; photographs with equal marks stay in one
            split.
        picture_size: (width, height) of its file in pixels.
        peak: Maximum of a 16-bit image, which is not yet scaled to 8 bits; 0 otherwise.
    """

    item: Item
    image: NDArray[np.uint8] | NDArray[np.float32]
    labels: Mapping[str, NDArray[Any]]
    ids: frozenset[int]
    marks: tuple[str, ...]
    picture_size: Size
    peak: int = 0
    palette: Mapping[int, int] = field(default_factory=dict)
    solid: frozenset[int] = frozenset()


def task_of(items: Sequence[Item]) -> str:
    """Return the task of the first kind of pixel labels, or classification."""
    kinds = {kind for item in items for kind in item.labels}
    return next((kind for kind in LABEL_NAMES if kind in kinds), "classification")


def select_readable(
    items: Sequence[Item], task: str, options: ReadOptions, report: ValidationReport
) -> tuple[list[Item], Size]:
    """Return the items with labels and readable pictures, and the working size."""
    sizes = []
    kept = []
    for item in items:
        if task != "classification" and task not in item.labels:
            report.warn("label-missing", item.name, labels=LABEL_NAMES[task])
            continue
        try:
            sizes.append(pictures.header_size(item.picture, options.max_pixels))
            kept.append(item)
        except UnreadableImageError as error:
            report.warn("unreadable-image", item.name, error=error)
    if options.size:
        return kept, options.size
    if task == "classification" or not sizes:
        return kept, _CLASS_SIZE
    return kept, pictures.working_size(sizes, _LONGEST_SIDE)


def load_items(
    items: Sequence[Item],
    size: Size,
    options: ReadOptions,
    by_colour: bool,
    report: ValidationReport,
) -> list[Loaded]:
    """Load photographs and their labels at one size.

    Args:
        items: Items returned by `select_readable`.
        size: (width, height) in pixels.
        options: Options of reading.
        by_colour: Whether mask classes are given by colour.
        report: Collects problems of the files.

    Returns:
        The readable items, in order.
    """
    kinds = sorted({kind for item in items for kind in item.labels})
    load = partial(_load, size=size, options=options, by_colour=by_colour, kinds=kinds)
    loaded: list[Loaded] = []
    show_progress = reading.get()
    with ThreadPoolExecutor(2) as pool:
        for n, (entry, problems) in enumerate(pool.map(load, items), 1):
            show_progress(n, len(items))
            report.add(problems)
            loaded += [] if entry is None else [entry]
    sizes = Counter(entry.picture_size for entry in loaded)
    if len(sizes) > 1:
        ((width, height), n), *_ = sizes.most_common(1)
        report.warn(
            "sizes", n=len(loaded) - n, usual=f"{width}x{height}", size=f"{size[0]}x{size[1]}"
        )
    return _to_8_bits(loaded, report)


def _load(
    item: Item, size: Size, options: ReadOptions, by_colour: bool, kinds: Sequence[str]
) -> tuple[Loaded | None, ValidationReport]:
    """Load one item, None if its picture is unusable; called from several threads."""
    report = ValidationReport()
    try:
        picture = pictures.open_picture(item.picture, options.max_pixels)
        n_frames = pictures.count_frames(picture)
        labels = _read_labels(item, options, by_colour, kinds, report)
        if pictures.turn_of(picture) is not None:
            picture = _turned(picture, item, labels, report)
        digest = pictures.pixel_digest(picture)
        image, peak = pictures.fit_photograph(picture, size)
    except UnreadableImageError as error:
        report = ValidationReport()
        report.warn("unreadable-image", item.name, error=error)
        return None, report
    if pictures.is_transparent(picture):
        report.warn("transparent", item.name)
    if n_frames > 1:
        report.warn("several-frames", item.name)
    if pictures.visible_fraction(picture.size, size) < _MIN_VISIBLE:
        report.warn("cropped", item.name, size=f"{size[0]}x{size[1]}")
    if min(picture.size) < _MIN_PIXELS:
        report.warn("tiny", item.name, minimum=_MIN_PIXELS)
    fitted: dict[str, NDArray[Any]] = {}
    for kind, values in labels.items():
        if values.shape[-2:] != picture.size[::-1]:
            report.error("label-size", item.name, files=LABEL_FORMATS[kind][0])
            continue
        if kind != "segmentation" and np.isnan(values).all():
            report.error("label-blank", item.name, files=LABEL_FORMATS[kind][0])
        elif kind == "depth" and np.isnan(values).any():
            report.warn("depth-holes", item.name)
        fitted[kind] = label_files.fit_labels(values, size)
    ids: frozenset[int] = frozenset()
    palette: Mapping[int, int] = {}
    if "segmentation" in fitted:
        ids = frozenset(np.unique(labels["segmentation"]).tolist())
        palette = label_files.mask_palette(item.labels["segmentation"], ids)
    entry = Loaded(
        item,
        image,
        fitted,
        ids=ids,
        palette=palette,
        solid=_solid(labels["segmentation"]) if ids else frozenset(),
        marks=(f"pixels {digest}", *([f"group {item.group}"] if item.group else [])),
        picture_size=picture.size,
        peak=peak,
    )
    return entry, report


def _solid(mask: NDArray[np.int32]) -> frozenset[int]:
    """Return the ids in a mask for which some pixel has four equal neighbours."""
    inner = mask[1:-1, 1:-1]
    alike = (inner == mask[:-2, 1:-1]) & (inner == mask[2:, 1:-1])
    alike &= (inner == mask[1:-1, :-2]) & (inner == mask[1:-1, 2:])
    return frozenset(np.unique(inner[alike]).tolist())


def _read_labels(
    item: Item,
    options: ReadOptions,
    by_colour: bool,
    kinds: Sequence[str],
    report: ValidationReport,
) -> dict[str, NDArray[Any]]:
    most = options.max_pixels
    read: Mapping[str, Callable[[Source], NDArray[Any]]] = {
        "segmentation": partial(label_files.read_mask, by_colour=by_colour, max_pixels=most),
        "depth": partial(label_files.read_depth, scale=options.depth_scale, max_pixels=most),
        "normals": partial(label_files.read_normals, max_pixels=most),
    }
    labels: dict[str, NDArray[Any]] = {}
    for kind in kinds:
        if kind not in item.labels:
            report.warn("label-unknown", item.name, labels=LABEL_NAMES[kind])
            continue
        try:
            labels[kind] = read[kind](item.labels[kind])
        except UnreadableImageError as error:
            report.error("label-unreadable", item.name, files=LABEL_FORMATS[kind][0], error=error)
    return labels


def _turned(
    picture: Image.Image, item: Item, labels: Mapping[str, NDArray[Any]], report: ValidationReport
) -> Image.Image:
    """Rotate a photograph by its EXIF orientation, if it has no labels or only this fits them."""
    upright = pictures.upright(picture)
    sizes = {values.shape[:-3:-1] for values in labels.values()}
    turn = not labels or (picture.size not in sizes and upright.size in sizes)
    if item.labels:
        report.warn("turned" if turn else "not-turned", item.name)
    return upright if turn else picture


def _to_8_bits(loaded: Sequence[Loaded], report: ValidationReport) -> list[Loaded]:
    """Scale 16-bit photographs to 0..255, all by the bit depth of the overall maximum."""
    scale = pictures.scale_of(max((entry.peak for entry in loaded), default=0))
    for entry in loaded:
        if entry.image.dtype != np.uint8:
            report.warn("sixteen-bits", entry.item.name, scale=scale)
    return [replace(entry, image=pictures.to_8_bits(entry.image, scale)) for entry in loaded]
