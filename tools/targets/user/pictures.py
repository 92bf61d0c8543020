"""Pictures of a user's own data as arrays: photographs and labels of pixels, in many file formats.

A picture that cannot be used raises Unusable; its text goes after "files", says why and what to do.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tools.data.shards import decode_normals

Content = Path | bytes | NDArray[Any]
Source = Content | Callable[[], Content]
"""A file, its bytes, an array, or what fetches one of them."""

JPEG = (".jpg", ".jpeg", ".jfif", ".jpe")
SUFFIXES = (*JPEG, ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
LABEL_SUFFIXES = (*SUFFIXES, ".npy")
# Ids of masks from here on are colours: COLOUR + 0xRRGGBB.
COLOUR = 1 << 24
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
_ORIENTATION = 0x0112
# Above this mean difference of its channels (0..255) a picture is coloured.
_COLOURED = 2.0


class Unusable(Exception):
    """A picture that cannot be used."""


def is_picture(path: Path) -> bool:
    """Tell whether a file ends as a picture does that can be read."""
    return path.suffix.lower() in SUFFIXES


def picture_stems(files: Iterable[Path]) -> set[str]:
    """Return the names of the pictures among files, without folders and endings."""
    return {file.stem for file in files if is_picture(file)}


def is_of_a_picture(file: Path, stems: Collection[str]) -> bool:
    """Tell whether a file is called as one of the pictures, as x.json or x.jpg.json."""
    return file.stem in stems or Path(file.stem).stem in stems


def open_picture(source: Source) -> Image.Image:
    """Return a picture, wholly decoded; raises Unusable for what is none or is cut off."""
    source = _fetch(source)
    try:
        if isinstance(source, np.ndarray):
            return Image.fromarray(source)
        # Read whole first: Pillow keeps the file of a damaged picture open.
        data = source.read_bytes() if isinstance(source, Path) else source
        picture = Image.open(io.BytesIO(data))
        picture.load()
        return picture
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, Image.DecompressionBombError):
        raise Unusable("that cannot be read (no picture, damaged or cut off)") from None


def is_deep(picture: Image.Image) -> bool:
    """Tell whether a picture has 16 bits per pixel."""
    return picture.mode in _SIXTEEN_BITS


def is_see_through(picture: Image.Image) -> bool:
    """Tell whether a picture has parts that are not wholly opaque."""
    if picture.getbands()[-1] == "A":  # of LAB, A is a colour
        return picture.getchannel("A").getextrema()[0] != 255
    return "transparency" in picture.info


def n_frames(picture: Image.Image) -> int:
    """Return how many pictures a file holds, more than one as of an animation or many pages."""
    return getattr(picture, "n_frames", 1)


def photograph(picture: Image.Image) -> Image.Image:
    """Return a picture as gray (L) or RGB; transparency is dropped, 16 bits are kept as floats (F).

    Gray pictures that are stored as RGB become gray. Raises Unusable for floats.
    """
    if is_deep(picture):
        return Image.fromarray(np.asarray(picture).clip(0, 65535).astype(np.float32))
    if picture.mode == "F":
        raise Unusable("of floating point numbers, of which white is not known (save 8 bits)")
    if picture.mode in ("1", "L", "LA"):
        return picture.convert("L")
    colours = picture.convert("RGB")
    values = np.asarray(colours).astype(np.int16)
    spread = np.abs(values - values.mean(2, keepdims=True)).mean()
    return colours if spread > _COLOURED else colours.convert("L")


def is_turned(picture: Image.Image) -> bool:
    """Tell whether a camera noted that a photograph is to be turned."""
    return picture.getexif().get(_ORIENTATION, 1) not in (0, 1)


def upright(picture: Image.Image) -> Image.Image:
    """Turn a photograph as its camera noted."""
    return ImageOps.exif_transpose(picture)


def ids(source: Source) -> NDArray[np.int32]:
    """Return the class ids of a mask, (h, w): of 8 or 16 bits, gray or by palette.

    Of a mask in colour they are its colours, COLOUR + 0xRRGGBB.
    """
    values = ids_or_colours(source)
    grays = {int(i): gray_of(int(i)) for i in np.unique(values)}
    if None in grays.values():
        return values
    return values if max(grays, default=0) < COLOUR else values & 0xFF


def ids_or_colours(source: Source, by_colour: bool = False) -> NDArray[np.int32]:
    """Return the same, but colours of every mask of three channels, even where all are gray.

    by_colour: of those of one channel, too.
    """
    source = _fetch(source)
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "iub":
            raise Unusable("without whole numbers of shape (height, width): save ids")
        return source.astype(np.int32)
    if isinstance(source, Path) and source.suffix.lower() in JPEG:
        raise Unusable(
            "in JPEG, which blurs ids: save masks as PNG (of two classes, cut at 128 to 0 and 255)"
        )
    if isinstance(source, Path) and source.suffix.lower() == ".npy":
        return ids_or_colours(_array(source))
    picture = open_picture(source)
    if picture.mode == "LA":
        picture = picture.getchannel("L")
    if is_deep(picture) or (picture.mode in ("P", "L", "1") and not by_colour):
        return np.asarray(picture).astype(np.int32)
    if picture.mode not in ("P", "L", "1", "RGB", "RGBA"):
        raise Unusable(
            f"of mode {picture.mode}: save masks as ids in 8 bits (gray, or with a palette), or in "
            "colour as RGB"
        )
    values = np.asarray(picture.convert("RGB")).astype(np.int32)
    colours: NDArray[np.int32] = values @ np.array([1 << 16, 1 << 8, 1], np.int32) + COLOUR
    return colours


def gray_of(number: int) -> int | None:
    """Return the gray value of an id that is a colour, itself if it is none, None if not gray."""
    if number < COLOUR:
        return number
    red, green, blue = (number - COLOUR).to_bytes(3)
    return red if red == green == blue else None


def colour_of(number: int) -> str:
    """Return an id that is a colour, or stands for a gray one, as "RED,GREEN,BLUE"."""
    if number < COLOUR:
        return ",".join([str(number)] * 3)
    return ",".join(str(byte) for byte in (number - COLOUR).to_bytes(3))


def metres(source: Source, scale: float) -> NDArray[np.float32]:
    """Return depth in metres, (h, w), NaN where unknown: not finite, zero or below.

    scale: what a PNG's values are divided by; arrays and float TIFF files hold metres.
    """
    source = _fetch(source)
    if isinstance(source, Path) and source.suffix.lower() == ".npy":
        source = _array(source)
    if isinstance(source, np.ndarray):
        if source.ndim == 3 and 1 in (source.shape[0], source.shape[2]):
            source = source[0] if source.shape[0] == 1 else source[..., 0]
        if source.ndim != 2 or source.dtype.kind not in "fiu":
            raise Unusable("without numbers of shape (height, width): save metres as float32")
        values = source.astype(np.float32)
    else:
        picture = open_picture(source)
        if picture.mode == "F":
            values = np.asarray(picture)
        elif is_deep(picture):
            values = np.asarray(picture).astype(np.float32) / scale
        else:
            raise Unusable(
                f"of mode {picture.mode}: save depth as 16-bit PNG (metres times "
                f"{scale:g}) or as .npy in metres"
            )
    known = np.isfinite(values) & (values > 0)
    return np.where(known, values, np.nan).astype(np.float32)


def in_metres(path: Path) -> bool:
    """Tell whether a file of depth holds metres, and no values of 16 bits."""
    if path.suffix.lower() == ".npy":
        return True
    with Image.open(path) as picture:
        return picture.mode == "F"


def directions(source: Source) -> NDArray[np.float32]:
    """Return unit normals, (3, h, w), of an RGB picture (127 n + 128), NaN where it is black."""
    picture = open_picture(source)
    if picture.mode != "RGB":
        raise Unusable(f"of mode {picture.mode}: save normals as 8-bit RGB, 127 n + 128")
    return decode_normals(np.asarray(picture))


def fitted(picture: Image.Image, size: tuple[int, int]) -> NDArray[Any]:
    """Scale a photograph to cover (width, height), cut off what overlaps; (c, h, w)."""
    scaled = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    pixels = np.asarray(scaled)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def seen_share(picture_size: tuple[int, int], size: tuple[int, int]) -> float:
    """Return how much of a picture is left, 0..1, once it is cut to the form of `size`."""
    form, wanted = picture_size[0] / picture_size[1], size[0] / size[1]
    return min(form / wanted, wanted / form)


def fitted_labels(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Do the same to labels, (..., h, w), by the nearest pixel, so that none is invented."""
    height, width = values.shape[-2:]
    share = min(width / size[0], height / size[1])
    rows = _centres(height, size[1], share)
    columns = _centres(width, size[0], share)
    return values[..., rows[:, None], columns[None, :]]


def _centres(length: int, n: int, share: float) -> NDArray[np.int64]:
    first = (length - n * share) / 2
    places = np.floor(first + (np.arange(n) + 0.5) * share)
    return np.asarray(places.clip(0, length - 1), dtype=np.int64)


def header_size(source: Source) -> tuple[int, int]:
    """Return (width, height) without decoding the pixels; raises Unusable."""
    source = _fetch(source)
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise Unusable(f"of shape {source.shape} (expected height, width, channels)")
        return source.shape[1], source.shape[0]
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as picture:
            return picture.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Unusable("that cannot be read (no picture, damaged or cut off)") from None


def working_size(sizes: Sequence[tuple[int, int]], longest: int) -> tuple[int, int]:
    """Return the (width, height) to work at: the most usual form, sides whole multiples of 8."""
    ratio = float(np.median([width / height for width, height in sizes]))
    width, height = (longest, longest / ratio) if ratio >= 1 else (longest * ratio, longest)
    return max(8, round(width / 8) * 8), max(8, round(height / 8) * 8)


def _fetch(source: Source) -> Content:
    return source() if callable(source) else source


def _array(path: Path) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        raise Unusable("that cannot be read as arrays") from None
    return values
