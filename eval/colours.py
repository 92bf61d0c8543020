"""Colour images of pixel labels, with legends, for montages and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eval.montage import BACKGROUND, INK, drawable

Images = NDArray[np.uint8]

# Colour map "plasma" of matplotlib (CC0): even steps of lightness, from far (cold) to near (warm).
_FAR_TO_NEAR = (
    (13, 8, 135), (70, 3, 159), (114, 1, 168), (156, 23, 158), (189, 55, 134),
    (216, 87, 107), (237, 121, 83), (251, 159, 58), (253, 202, 38), (240, 249, 33),
)  # fmt: skip
_ROW_PX = 16
_SWATCH_PX = 12
_BAR_WIDTH_PX = 192


@cache
def class_colours(source: str) -> Mapping[str, Sequence[int]]:
    """Return the RGB colour, 0..255, of each class of a data set: "camvid" or "ade20k"."""
    file = resources.files("eval").joinpath("colours.yaml")
    colours: Mapping[str, Sequence[int]] = yaml.safe_load(file.read_text("utf-8"))[source]
    return colours


def palette(class_names: Sequence[str]) -> Images:
    """Return a colour per class, (n_classes, 3), none of them black.

    CamVid's colours where all names are CamVid classes; else those of PASCAL VOC, which depend on a
    class's number alone and are distinct for up to 255 classes.
    """
    camvid = class_colours("camvid")
    colours: list[Sequence[int]] = [_voc(number + 1) for number in range(len(class_names))]
    if set(class_names) <= camvid.keys():
        colours = [camvid[name] for name in class_names]
    return np.array(colours, dtype=np.uint8).reshape(-1, 3)


def segmentation_rgb(ids: NDArray[np.uint8], class_names: Sequence[str]) -> Images:
    """Return class ids, (n, h, w), as RGB, (n, 3, h, w); ids beyond the names (void) are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(class_names)] = palette(class_names)
    return np.moveaxis(table[ids], -1, 1)


def depth_rgb(depth: NDArray[np.floating], near_m: float, far_m: float) -> Images:
    """Return depth in metres, (n, h, w), as RGB, (n, 3, h, w): near warm, far cold, NaN black.

    near_m, far_m: ends of the logarithmic scale, above 0.
    """
    valid = np.isfinite(depth)
    metres = np.clip(np.where(valid, depth, far_m), near_m, far_m)
    nearness = np.log(far_m / metres) / max(np.log(far_m / near_m), 1e-9)
    colours = np.array(_FAR_TO_NEAR)
    steps = np.linspace(0, 1, len(colours))
    rgb = np.stack([np.interp(nearness, steps, channel) for channel in colours.T], axis=1)
    return _bytes(rgb * valid[:, None])


def normals_rgb(normals: NDArray[np.floating]) -> Images:
    """Return unit vectors, (n, 3, h, w), as RGB of the same shape in the usual normal-map colours.

    Red grows to the right, green upwards, blue towards the camera; unknown pixels are black.
    """
    valid = np.isfinite(normals).all(1, keepdims=True)
    # x points right, y down and z away from the camera.
    signs = np.array([1, -1, -1]).reshape(3, 1, 1)
    rgb = (np.where(valid, normals, 0) * signs + 1) / 2 * 255
    return _bytes(rgb * valid)


def label_colours(
    labels: Mapping[str, NDArray[Any]],
    kinds: Iterable[str],
    class_names: Sequence[str],
    depth_m: tuple[float, float],
) -> list[Images]:
    """Return pixel labels as RGB, (n, 3, h, w) for each kind of `kinds` that `labels` has.

    depth_m: ends of the scale of `depth_rgb`.
    """
    pictures = []
    for kind in kinds:
        if kind not in labels:
            continue
        if kind == "segmentation":
            pictures.append(segmentation_rgb(labels[kind], class_names))
        elif kind == "depth":
            pictures.append(depth_rgb(labels[kind], *depth_m))
        else:
            pictures.append(normals_rgb(labels[kind]))
    return pictures


def side_by_side(images: Images, *colours: Images) -> Images:
    """Return images, gray or RGB, with colour images, (n, 3, h, w), to the right of them."""
    rgb = np.broadcast_to(images, (len(images), 3, *images.shape[2:]))
    return np.concatenate([rgb, *colours], axis=3)


def legend(class_names: Sequence[str]) -> Images:
    """Return a legend, (3, h, w): a line for each class with its colour and its name."""
    font = ImageFont.load_default()
    names = [drawable(name) for name in class_names]
    width = 2 * _ROW_PX + int(max((font.getlength(name) for name in names), default=0))
    picture = Image.new("RGB", (width, max(1, len(class_names)) * _ROW_PX), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for row, (name, colour) in enumerate(zip(names, palette(class_names), strict=True)):
        top = row * _ROW_PX + (_ROW_PX - _SWATCH_PX) // 2
        box = (2, top, 1 + _SWATCH_PX, top + _SWATCH_PX - 1)
        draw.rectangle(box, fill=tuple(int(part) for part in colour))
        middle = (row + 0.5) * _ROW_PX
        draw.text((_ROW_PX + 4, middle), name, fill=INK, font=font, anchor="lm")
    return _channels_first(picture)


def depth_bar(near_m: float, far_m: float) -> Images:
    """Return the scale of `depth_rgb` with its ends in metres, (3, h, w)."""
    metres = np.geomspace(near_m, far_m, _BAR_WIDTH_PX)[None, None].repeat(_SWATCH_PX, 1)
    picture = Image.new("RGB", (_BAR_WIDTH_PX, _SWATCH_PX + _ROW_PX), BACKGROUND)
    bar = depth_rgb(metres, near_m, far_m)[0].transpose(1, 2, 0)
    picture.paste(Image.fromarray(np.ascontiguousarray(bar)))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    middle = _SWATCH_PX + _ROW_PX / 2
    draw.text((2, middle), f"{near_m:g} m", fill=INK, font=font, anchor="lm")
    draw.text((_BAR_WIDTH_PX - 2, middle), f"{far_m:g} m", fill=INK, font=font, anchor="rm")
    return _channels_first(picture)


def below_one_another(pictures: Sequence[Images]) -> Images:
    """Stack pictures, (3, h, w), of any widths on the background of the legends."""
    width = max(picture.shape[2] for picture in pictures)
    background = np.array(BACKGROUND, np.uint8).reshape(3, 1, 1)
    rows = []
    for picture in pictures:
        row = np.broadcast_to(background, (3, picture.shape[1], width)).copy()
        row[:, :, : picture.shape[2]] = picture
        rows.append(row)
    return np.concatenate(rows, axis=1)


def _voc(number: int) -> tuple[int, int, int]:
    """Return colour `number` of PASCAL VOC, whose bits are distributed over R, G and B in turn."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


def _bytes(rgb: NDArray[np.floating]) -> Images:
    return rgb.clip(0, 255).round().astype(np.uint8)


def _channels_first(picture: Image.Image) -> Images:
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))
