"""Conversion of pixel labels to condition images of ControlNets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError

from eval.colours import class_colours, normals_rgb, palette
from memory.errors import SettingsError
from tools.data.samples import VOID
from tools.streets import CLASS_NAMES

Colours = NDArray[np.uint8]

_Level = Annotated[int, Field(ge=0, le=255, strict=True)]
_Palette = Annotated[list[tuple[_Level, _Level, _Level]], Field(min_length=1, max_length=VOID)]
_PALETTE = TypeAdapter(_Palette)


def read_palette(given: str | Sequence[Sequence[int]]) -> Colours:
    """Return the colour of every class id, (n_classes, 3).

    Args:
        given: "streets", the colours of reports, or "ade20k", those of the nearest ADE20K class,
            both for CamVid's eleven classes; or [R, G, B] in 0..255 for every class in the order of
            ids.

    Raises:
        SettingsError: `given` is anything else.
    """
    if given == "streets":
        return palette(CLASS_NAMES)
    if given == "ade20k":
        ade20k = class_colours("ade20k")
        return np.array([ade20k[name] for name in CLASS_NAMES], np.uint8)
    try:
        return np.array(_PALETTE.validate_python(given), np.uint8)
    except ValidationError as error:
        raise SettingsError(
            "generator.options.palette must be streets, ade20k, or a list of [R, G, B], whole "
            f"numbers in 0..255, one for each class id, got {str(given)[:200]}."
        ) from error


def condition(kind: str, labels: NDArray[Any], colours: Colours) -> NDArray[np.uint8]:
    """Return labels as images, uint8, (n, 3, h, w).

    depth: inverse depth scaled to 0..255 in each image, as in MiDaS; near is white, unknown is
    black, an image of constant depth is black. segmentation: the colour of each class, unknown is
    black. normals: x, -y and -z from -1..1 as red, green and blue in 0..255, so that a surface that
    faces the camera is light blue.

    Args:
        kind: "depth", "segmentation" or "normals".
        labels: As in `Samples`.
        colours: Colours of class ids, (n_classes, 3).

    Raises:
        SettingsError: A class has no colour.
    """
    if kind == "segmentation":
        ids = labels[labels != VOID]
        if ids.size and ids.max() >= len(colours):
            raise SettingsError(
                f"The palette has {len(colours)} colours, but the labels have the class id "
                f"{ids.max()}. Add its colour to generator.options.palette."
            )
        table = np.zeros((256, 3), np.uint8)
        table[: len(colours)] = colours
        return np.moveaxis(table[labels], -1, 1)
    if kind == "normals":
        return normals_rgb(labels)
    known = np.isfinite(labels) & (labels > 0)
    inverse = 1 / np.where(known, labels, 1).astype(np.float64)
    least = np.where(known, inverse, np.inf).min((1, 2), keepdims=True)
    most = np.where(known, inverse, -np.inf).max((1, 2), keepdims=True)
    span = np.where(most > least, most - least, 1)
    nearness = np.where(known, inverse - np.where(np.isfinite(least), least, 0), 0) / span
    grey = (nearness * 255).round().astype(np.uint8)
    return np.repeat(grey[:, None], 3, axis=1)


def pictures(images: NDArray[np.uint8], size: tuple[int, int], smooth: bool) -> list[Image.Image]:
    """Return images, (n, 1 or 3, h, w), as RGB pictures resized to (height, width).

    smooth: Interpolate bicubically; False: nearest pixel, for colours of classes.
    """
    resampling = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    height, width = size
    rgb = np.broadcast_to(images, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1)
    return [
        Image.fromarray(np.ascontiguousarray(image)).resize((width, height), resampling)
        for image in rgb
    ]
