"""Reading of image files of many formats, and of photographs as arrays.

Pixel labels are read by `label_files`. Unusable files raise UnreadableImageError; its message
completes a sentence that begins with "files", and says why and what to do.
"""

from __future__ import annotations

import hashlib
import io
import math
import unicodedata
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from memory.errors import DataError
from tools.data.fitted import fit_picture
from tools.targets.user import deep

Content = Path | bytes | NDArray[Any]
Source = Content | Callable[[], Content]
"""A file, its bytes, an array, or a function that returns one of these."""

JPEG = (".jpg", ".jpeg", ".jfif", ".jpe")
SUFFIXES = (*JPEG, ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
LABEL_SUFFIXES = (*SUFFIXES, ".npy")
# Formats that are read regardless of the file name; others would start programs (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM")
# Larger pictures are not decoded, unless the options of the target allow it.
MAX_PIXELS = 64_000_000
# Pillow itself refuses larger pictures.
LIMIT_PIXELS = 178_000_000
_ORIENTATION = 0x0112
# Transposition for each EXIF orientation from 2 on.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Number of pixels of a large picture that are processed at once.
_STRIP_PIXELS = 1 << 18
# Modes of 16 bits per pixel.
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")
_DEEPEST = 65535
_BIT_DEPTHS = (8, 10, 12, 14, 16)
# Pillow's warning is redundant: sizes are checked before decoding.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnreadableImageError(DataError):
    """An image file, or pixel labels in one, that cannot be used."""


def is_picture(path: Path) -> bool:
    """Return whether a file has the suffix of a readable picture."""
    return path.suffix.lower() in SUFFIXES


def composed(name: str) -> str:
    """Return a file name in Unicode NFC, so that names of different file systems compare equal."""
    return unicodedata.normalize("NFC", name)


def picture_stems(files: Iterable[Path]) -> set[str]:
    """Return the stems of the pictures among files, without folders."""
    return {composed(file.stem) for file in files if is_picture(file)}


def belongs_to_picture(file: Path, stems: Collection[str]) -> bool:
    """Return whether a file is named after one of the pictures, such as x.json or x.jpg.json."""
    stem = composed(file.stem)
    return stem in stems or Path(stem).stem in stems


def open_picture(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open and fully decode a picture.

    Args:
        source: Source of the picture.
        max_pixels: Maximum number of pixels, checked before decoding.

    Raises:
        UnreadableImageError: The source is not a picture, is truncated, or has too many pixels.
    """
    source = fetch(source)
    if isinstance(source, np.ndarray):
        return _picture_of(source, max_pixels)
    with _explained(source, max_pixels):
        # Read completely first, as Pillow keeps the file of a damaged picture open.
        data = source.read_bytes() if isinstance(source, Path) else source
        picture = undecoded(data)
        check_pixels(picture.size, max_pixels)
        deep.keep_low_bytes(picture, data)
        picture.load()
        if picture.format == "WEBP":
            picture.info["is_lossy"] = b"VP8L" not in data
        return picture


def undecoded(source: Path | bytes) -> Image.Image:
    """Open a picture in one of the `FORMATS` without decoding its pixels."""
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS)


@contextmanager
def _explained(source: Path | bytes, max_pixels: int) -> Iterator[None]:
    """Convert Pillow's errors to UnreadableImageError."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(max_pixels) from None
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow raises many types
        raise _unreadable(source, error) from None


def _picture_of(values: NDArray[Any], max_pixels: int) -> Image.Image:
    """Convert integers, or floats in 0..1, with channels first or last, to a picture."""
    header_size(values, max_pixels)
    if _is_channels_first(values):
        values = values.transpose(1, 2, 0)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        values = np.round(values * 255)
    elif values.dtype.kind not in "iub" or low < 0 or high > _DEEPEST:
        raise UnreadableImageError(
            f"that are arrays of {values.dtype} from {low:.3g} to {high:.3g}: save whole numbers "
            "from 0 to 255, or fractions from 0 to 1"
        )
    if values.dtype.kind == "b":
        values = values * 255
    if high > 255 and values.ndim == 3:
        return deep.from_values(values[..., :3].astype(np.uint16))
    return Image.fromarray(values.astype(np.uint16 if high > 255 else np.uint8))


def _is_channels_first(values: NDArray[Any]) -> bool:
    return values.ndim == 3 and values.shape[0] in (1, 3, 4) and values.shape[2] not in (1, 3, 4)


def _unreadable(source: Path | bytes, error: Exception) -> UnreadableImageError:
    """Return the error for a file that is not a readable picture, with the reason if known."""
    reason = "no picture, damaged or truncated"
    if not isinstance(error, OSError | SyntaxError):
        reason += f": {error}"
    elif isinstance(error, UnidentifiedImageError) and (bands := _tiff_bands(source)):
        reason = f"TIFF of {bands}: save three bands of 8 bits, or one"
    return UnreadableImageError(f"that cannot be read ({reason})")


def _tiff_bands(source: Path | bytes) -> str:
    """Return a description of the bands of a TIFF file, "" if it is none or damaged."""
    file = io.BytesIO(source.read_bytes() if isinstance(source, Path) else source)
    try:
        header = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(header.next)
        header.load(file)
        bits = header[TiffImagePlugin.BITSPERSAMPLE]
    except Exception:  # damaged files raise many types here
        return ""
    return f"{len(bits)} band{'s' * (len(bits) > 1)} of {max(bits)} bits"


def check_pixels(size: tuple[int, ...], max_pixels: int) -> None:
    """Raise UnreadableImageError if a size exceeds `max_pixels`."""
    if math.prod(size) > max_pixels:
        raise _too_large(max_pixels)


def _too_large(max_pixels: int) -> UnreadableImageError:
    return UnreadableImageError(
        f"of more than {max_pixels / 1e6:g} megapixels: scale them down, or raise "
        f"target.options.max_pixels (to at most {LIMIT_PIXELS})"
    )


def header_size(source: Source, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (width, height) without decoding pixels.

    Raises:
        UnreadableImageError: The source is not a picture, or exceeds `max_pixels`.
    """
    source = fetch(source)
    if isinstance(source, np.ndarray):
        if source.ndim not in (2, 3):
            raise UnreadableImageError(
                f"of shape {source.shape} (expected height, width, channels)"
            )
        height, width = source.shape[1:] if _is_channels_first(source) else source.shape[:2]
        check_pixels((height, width), max_pixels)
        return width, height
    with _explained(source, max_pixels), undecoded(source) as picture:
        check_pixels(picture.size, max_pixels)
        return picture.size


def strips(picture: Image.Image) -> Iterator[Image.Image]:
    """Yield a picture in horizontal strips from top to bottom, to limit memory."""
    width, height = picture.size
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        yield picture.crop((0, top, width, min(top + step, height)))


def pixel_digest(picture: Image.Image) -> str:
    """Return a digest of a picture's mode, size and pixels."""
    content = hashlib.sha256(f"{picture.mode} {picture.size}".encode())
    low = picture.info.get(deep.LOW_BYTES)
    for strip in (*strips(picture), *(strips(low) if low else ())):
        content.update(strip.tobytes())
    return content.hexdigest()


def is_transparent(picture: Image.Image) -> bool:
    """Return whether a picture has pixels that are not opaque."""
    if picture.getbands()[-1] == "A":  # excludes LAB, whose A is a colour axis
        return picture.getchannel("A").getextrema()[0] != 255
    return "transparency" in picture.info


def fit_photograph(
    picture: Image.Image, size: tuple[int, int]
) -> tuple[NDArray[np.uint8] | NDArray[np.float32], int]:
    """Scale a picture, and return it with the maximum of its 16-bit values, 0 for 8 bits.

    Args:
        picture: Picture of any mode.
        size: (width, height).

    Returns:
        (1 or 3, height, width), 0..255, or floats in 0..65535 for 16 bits; and the maximum.

    Raises:
        UnreadableImageError: The picture has floating-point values.
    """
    if deep.LOW_BYTES in picture.info:
        return deep.fit_bands(picture, size)
    peak = int(np.asarray(picture).max()) if picture.mode in DEEP_MODES else 0
    return fit_picture(to_photograph(picture), size), peak


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture rotated according to its EXIF orientation."""
    turn = turn_of(picture)
    if turn is None:
        return picture
    turned = picture.transpose(turn)
    if low := picture.info.get(deep.LOW_BYTES):
        turned.info[deep.LOW_BYTES] = low.transpose(turn)
    return turned


def turn_of(picture: Image.Image) -> Image.Transpose | None:
    """Return the transposition for the EXIF orientation; None if upright or EXIF is damaged."""
    try:
        return _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # of damaged EXIF, for which Pillow raises many types
        return None


def count_frames(picture: Image.Image) -> int:
    """Return the number of frames in a file, 1 if those after the first are damaged."""
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # Pillow raises many types
        return 1


def to_8_bits(image: NDArray[Any], scale: int) -> NDArray[np.uint8]:
    """Divide a 16-bit image, given as floats, by a scale; return 8-bit images unchanged."""
    scaled = image if image.dtype == np.uint8 else (image / scale).clip(0, 255)
    return scaled.astype(np.uint8)


def scale_of(peak: int) -> int:
    """Return the divisor that converts values up to `peak` to 8 bits, from their bit depth."""
    return next((1 << (bits - 8) for bits in _BIT_DEPTHS if peak < 1 << bits), 1 << 8)


def read_photographs(
    paths: Sequence[Path], image_shape: Sequence[int], scale: int | None = None
) -> tuple[NDArray[np.uint8], list[Path], list[str]]:
    """Read photographs with the preprocessing of the target `folder`.

    Args:
        paths: Image files.
        image_shape: (1 or 3, height, width).
        scale: What values of 16 bits were divided by; None for what these files need.

    Returns:
        Images, (n, *image_shape), of the readable files; these files; and the problems of others.
    """
    channels, height, width = image_shape
    readable: list[tuple[Path, NDArray[Any], int]] = []
    problems = []
    for path in paths:
        try:
            picture = upright(open_picture(path))
            if channels == 1 and deep.LOW_BYTES not in picture.info:
                picture = (
                    picture if picture.mode in DEEP_MODES else to_photograph(picture).convert("L")
                )
            readable.append((path, *fit_photograph(picture, (width, height))))
        except UnreadableImageError as error:
            problems.append(f"{path}: a file {error}")
    scale = scale or scale_of(max((peak for *_, peak in readable), default=0))
    images = np.zeros((len(readable), channels, height, width), np.uint8)
    for output, (_, image, _) in zip(images, readable, strict=True):
        fits = len(image) <= channels
        output[:] = to_8_bits(image if fits else image.mean(0, keepdims=True), scale)
    return images, [path for path, *_ in readable], problems


def to_photograph(picture: Image.Image) -> Image.Image:
    """Convert a picture to gray (L) or RGB; drops transparency, converts 16 bits to floats (F).

    RGB pictures without colour become gray. Raises UnreadableImageError for floats, integers beyond
    16 bits, and a single colour with transparency.
    """
    if picture.mode in DEEP_MODES:
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > _DEEPEST:
            raise UnreadableImageError(
                f"with values from {values.min()} to {values.max()}: save whole numbers from 0 to "
                f"{_DEEPEST}"
            )
        return Image.fromarray(values.astype(np.float32))
    if is_transparent(picture) and picture.convert("RGB").getcolors(1):
        raise UnreadableImageError(
            "whose shapes are in their transparency alone: lay them on a ground of another colour"
        )
    if picture.mode == "F":
        raise UnreadableImageError("of floating point numbers, of unknown range (save 8 bits)")
    if picture.mode in ("1", "L", "LA"):
        return picture.convert("L")
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    # Differences of the channels from their mean, times 3 to remain integers.
    total = n_vivid = 0
    for strip in strips(rgb):
        values = np.asarray(strip).astype(np.int16)
        differences = 3 * values - values.sum(2, keepdims=True, dtype=np.int16)
        total += int(np.abs(differences).sum(dtype=np.int64))
        n_vivid += int((np.ptp(values, 2) > deep.VIVID).sum())
    n_pixels = rgb.width * rgb.height
    is_coloured = total > deep.COLOURED * 9 * n_pixels or n_vivid > deep.FEW_VIVID * n_pixels
    return rgb if is_coloured else rgb.convert("L")


def visible_fraction(picture_size: tuple[int, int], size: tuple[int, int]) -> float:
    """Return the fraction of a picture, 0..1, that cropping to the aspect ratio of `size` keeps."""
    ratio, wanted = picture_size[0] / picture_size[1], size[0] / size[1]
    return min(ratio / wanted, wanted / ratio)


def working_size(sizes: Sequence[tuple[int, int]], longest: int) -> tuple[int, int]:
    """Return the working (width, height): the median aspect ratio, in multiples of 8."""
    ratio = float(np.median([width / height for width, height in sizes]))
    width, height = (longest, longest / ratio) if ratio >= 1 else (longest * ratio, longest)
    return max(8, round(width / 8) * 8), max(8, round(height / 8) * 8)


def fetch(source: Source) -> Content:
    """Return the content of a source, calling it if it is a function."""
    return source() if callable(source) else source
