"""Reading of pixel labels from files: masks, depth maps and normal maps.

As in `pictures`, unusable files raise UnreadableImageError.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.data.shards import decode_normals
from tools.targets.user import deep, pictures
from tools.targets.user.pictures import MAX_PIXELS, Content, Source, UnreadableImageError

# Names of pixel labels in messages, and default names of their folders.
LABEL_NAMES = {"segmentation": "masks", "depth": "depth", "normals": "normals"}
# Names of their files in messages, and supported formats.
LABEL_FORMATS = {
    "segmentation": ("masks", "PNG with ids of 8 or 16 bits, or .npy"),
    "depth": ("depth files", "16-bit PNG (metres times 256), or .npy in metres"),
    "normals": ("normals files", "8-bit RGB, 127 n + 128"),
}
# Size at which the lengths of normals are checked, and tolerated error of their median length.
_SAMPLED, _LENGTH_ERROR = (256, 256), 0.2
# Values of sensors and renderers for missing depth or the sky: in 16 bits; in metres, from here on.
_NO_DEPTH_BITS, _NO_DEPTH_M = 65535, 1e9
# Mask ids from here on are colours: COLOUR + 0xRRGGBB.
COLOUR = 1 << 24


def read_mask(
    source: Source, by_colour: bool = False, max_pixels: int = MAX_PIXELS
) -> NDArray[np.int32]:
    """Return the class ids of a mask.

    Args:
        source: Mask of 8 or 16 bits, gray or with a palette; or in colour (three channels).
        by_colour: Whether single-channel masks are also read by colour.
        max_pixels: Maximum number of pixels.

    Returns:
        Ids, (height, width); COLOUR + 0xRRGGBB for masks in colour.
    """
    source = _array_or_picture(pictures.fetch(source), max_pixels)
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "iub":
            raise UnreadableImageError(
                "without whole numbers of shape (height, width): save class ids"
            )
        return source.astype(np.int32)
    picture = pictures.open_picture(source, max_pixels)
    if lossy := _lossy_format(picture):
        raise UnreadableImageError(
            f"in {lossy}, which blurs ids: save masks as PNG (of two classes, cut at 128 to 0 and "
            "255)"
        )
    if picture.mode == "LA":
        picture = picture.getchannel("L")
    if low := picture.info.get(deep.LOW_BYTES):
        if np.asarray(picture.convert("RGB")).any():
            raise UnreadableImageError("of 16 bits in several channels: save ids of 8 bits in gray")
        picture = low
    if picture.mode in pictures.DEEP_MODES or (picture.mode in ("P", "L", "1") and not by_colour):
        return np.asarray(picture).astype(np.int32)
    if picture.mode not in ("P", "L", "1", "RGB", "RGBA"):
        raise UnreadableImageError(
            f"of mode {picture.mode}: save masks as ids of 8 bits (gray or palette), or as RGB"
        )
    powers = np.array([1 << 16, 1 << 8, 1], np.int32)
    rows = [
        np.asarray(part.convert("RGB")).astype(np.int32) @ powers
        for part in pictures.strips(picture)
    ]
    return np.concatenate(rows) + np.int32(COLOUR)


def _lossy_format(picture: Image.Image) -> str:
    """Return the format of a picture, regardless of its file name, if it is lossy, else ""."""
    if picture.format in ("JPEG", "MPO") or "jpeg" in str(picture.info.get("compression")):
        return "JPEG"
    return "lossy WEBP" if picture.info.get("is_lossy") else ""


def mask_palette(source: Source, ids: Collection[int]) -> dict[int, int]:
    """Return the palette colours 0xRRGGBB of the ids in a mask, {} without a colour palette."""
    source = pictures.fetch(source)
    if isinstance(source, np.ndarray) or (isinstance(source, Path) and source.suffix == ".npy"):
        return {}
    with pictures.undecoded(source) as picture:
        if picture.mode != "P":
            return {}
        colours = np.reshape(picture.getpalette("RGB") or (), (-1, 3)) @ [1 << 16, 1 << 8, 1]
    used = {i: int(colours[i]) for i in ids if i < len(colours)}
    is_gray = all(colour == i * 0x010101 for i, colour in used.items())
    return {} if is_gray else used


def read_ids(source: Source) -> NDArray[np.int32]:
    """Return the class ids of a mask, (height, width), which may have three gray channels."""
    values = read_mask(source)
    is_gray = all(gray_level(int(i)) is not None for i in np.unique(values))
    return values & 0xFF if is_gray and values.max() >= COLOUR else values


def gray_level(number: int) -> int | None:
    """Return a mask id, or the gray level of an id that is a colour, None if it is not gray."""
    if number < COLOUR:
        return number
    red, green, blue = (number - COLOUR).to_bytes(3)
    return red if red == green == blue else None


def colour_text(number: int) -> str:
    """Format an id that is a colour, or a gray level, as "RED,GREEN,BLUE"."""
    if number < COLOUR:
        return ",".join([str(number)] * 3)
    return ",".join(str(byte) for byte in (number - COLOUR).to_bytes(3))


def read_depth(source: Source, scale: float, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Return depth in metres, (height, width), NaN where it is unknown.

    Values that are not finite or not positive, 65535 in 16 bits, and 1e9 m and more are unknown.

    Args:
        source: Depth file; arrays and float TIFF files contain metres.
        scale: Divisor of the values in 16-bit files.
        max_pixels: Maximum number of pixels.
    """
    source = _array_or_picture(pictures.fetch(source), max_pixels)
    if isinstance(source, np.ndarray):
        if source.ndim == 3 and 1 in (source.shape[0], source.shape[2]):
            source = source[0] if source.shape[0] == 1 else source[..., 0]
        if source.ndim != 2 or source.dtype.kind not in "fiu":
            raise UnreadableImageError(
                "without numbers of shape (height, width): save metres as float32"
            )
        values = source.astype(np.float32)
    else:
        picture = pictures.open_picture(source, max_pixels)
        if picture.mode != "F" and picture.mode not in pictures.DEEP_MODES:
            raise UnreadableImageError(
                f"of mode {picture.mode}: save depth as 16-bit PNG (metres times {scale:g}) or as "
                ".npy in metres"
            )
        values = np.asarray(picture).astype(np.float32)
        if picture.mode != "F":
            values = np.where(values == _NO_DEPTH_BITS, np.nan, values / scale)
    known = (values > 0) & (values < _NO_DEPTH_M)
    return np.where(known, values, np.nan).astype(np.float32)


def stores_metres(path: Path) -> bool:
    """Return whether a depth file contains metres instead of 16-bit values."""
    if path.suffix.lower() == ".npy":
        return True
    with pictures.undecoded(path) as picture:
        return picture.mode == "F"


def read_normals(source: Source, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Decode RGB = 127 n + 128 to unit normals, (3, height, width); NaN for black pixels."""
    picture = pictures.open_picture(source, max_pixels)
    if picture.mode != "RGB":
        raise UnreadableImageError(
            f"of mode {picture.mode}: save normals as 8-bit RGB, 127 n + 128"
        )
    sample = np.asarray(picture.resize(_SAMPLED, Image.Resampling.NEAREST), np.float32)
    lengths = np.linalg.norm((sample - 128) / 127, axis=2)[sample.any(2)]
    if lengths.size and np.median(np.abs(lengths - 1)) > _LENGTH_ERROR:
        raise UnreadableImageError(
            "whose vectors do not have length 1: are these normals, stored as 127 n + 128?"
        )
    return np.concatenate(
        [decode_normals(np.asarray(part)) for part in pictures.strips(picture)], axis=1
    )


def fit_labels(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Crop and scale labels like `fit_picture`, with nearest-neighbour interpolation.

    Args:
        values: Labels, (..., h, w).
        size: (width, height).
    """
    height, width = values.shape[-2:]
    step = min(width / size[0], height / size[1])
    rows, columns = (
        np.floor((length - n * step) / 2 + (np.arange(n) + 0.5) * step)
        .clip(0, length - 1)
        .astype(np.int64)
        for length, n in ((height, size[1]), (width, size[0]))
    )
    return values[..., rows[:, None], columns[None, :]]


def _array_or_picture(source: Content, max_pixels: int) -> Content:
    """Return the array in a .npy file, and other content unchanged."""
    if not isinstance(source, Path) or source.suffix.lower() != ".npy":
        return source
    try:
        # Memory-mapped first: a header can declare any shape, which would be allocated.
        mapped = np.load(source, mmap_mode="r", allow_pickle=False)
        # A single channel is ignored.
        pictures.check_pixels(tuple(length for length in mapped.shape if length != 1), max_pixels)
        return np.array(mapped)
    except (OSError, ValueError, EOFError, OverflowError, AttributeError):
        raise UnreadableImageError("that cannot be read as arrays") from None
