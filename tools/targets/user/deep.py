"""Photographs with 16 bits per channel, of which Pillow only keeps the high bytes.

The low bytes are decoded by a second reading, in which the file is declared to have the opposite
byte order.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from tools.data.fitted import fit_picture

LOW_BYTES = "low_bytes"
# Byte orders of Pillow's raw modes, with the opposite order that yields the low bytes.
_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_DEEP = tuple(f"{bands};16{order}" for bands in ("RGB", "RGBA", "RGBX") for order in _OTHER)
_GRAY_ALPHA = "LA;16B"
_BYTE = 255
# A picture is coloured if the mean difference of its channels (0..255) is above the first, or if
# that of the highest and the lowest is above the second in more than a share of its pixels.
COLOURED, VIVID, FEW_VIVID = 2.0, 64, 1 / 64**2


def keep_low_bytes(picture: Image.Image, data: bytes) -> None:
    """Store the low bytes in the info of a picture that was opened but not loaded.

    Args:
        picture: Picture of a file; 8-bit pictures are not changed.
        data: Content of the file.

    Raises:
        ValueError: Pillow does not read this form of 16 bits correctly.
    """
    if not isinstance(picture, ImageFile.ImageFile) or len(picture.tile) == 0:
        return
    raw_mode = _raw_mode(picture)
    if picture.format == "PPM" and raw_mode == "RGB" and _highest(picture) > _BYTE:
        # Pillow would scale by the maximum in the header, not by the maximum of the data.
        raw_mode = "RGB;16B"
        picture.tile = [picture.tile[0]._replace(codec_name="raw", args=(raw_mode, 0, 1))]
    is_deep = 16 in getattr(picture, "tag_v2", {}).get(258, ())
    if is_deep and raw_mode in ("R", "G", "B", "A"):
        raise ValueError("16 bits in planes, uncompressed")
    if raw_mode in _DEEP or raw_mode == _GRAY_ALPHA:
        with Image.open(io.BytesIO(data), formats=[str(picture.format)]) as low:
            assert isinstance(low, ImageFile.ImageFile)
            # The four bytes of gray with alpha are read as four bands.
            other = "RGBA" if raw_mode == _GRAY_ALPHA else raw_mode[:-1] + _OTHER[raw_mode[-1]]
            low.tile = [tile._replace(args=_with_mode(tile.args, other)) for tile in picture.tile]
            low.load()
            if raw_mode == _GRAY_ALPHA:
                picture.info[LOW_BYTES] = low.getchannel("G").convert("RGB")
            else:
                picture.info[LOW_BYTES] = low.convert("RGB")


def _highest(picture: ImageFile.ImageFile) -> int:
    """Return the maximum value declared by a PPM file."""
    args = picture.tile[0].args
    return int(args[-1]) if isinstance(args, tuple) else 0


def _with_mode(args: tuple[Any, ...] | str | None, raw_mode: str) -> tuple[Any, ...] | str:
    return (raw_mode, *args[1:]) if isinstance(args, tuple) else raw_mode


def _raw_mode(picture: ImageFile.ImageFile) -> str:
    args = picture.tile[0].args
    return str(args if isinstance(args, str) else args[0] if args else "")


def from_values(values: NDArray[np.uint16]) -> Image.Image:
    """Convert 16-bit colours, (height, width, 3), to a picture with low bytes."""
    picture = Image.fromarray((values >> 8).astype(np.uint8))
    picture.info[LOW_BYTES] = Image.fromarray((values & _BYTE).astype(np.uint8))
    return picture


def fit_bands(picture: Image.Image, size: tuple[int, int]) -> tuple[NDArray[np.float32], int]:
    """Scale a picture with low bytes; return its values and their maximum.

    Args:
        picture: Picture in colour or gray.
        size: (width, height).

    Returns:
        (1 or 3, height, width), 0..65535, and the maximum of the whole picture.
    """
    low: Image.Image = picture.info[LOW_BYTES]
    bands = np.stack(
        [
            np.asarray(high, np.float32) * 256 + np.asarray(rest, np.float32)
            for high, rest in zip(picture.convert("RGB").split(), low.split(), strict=True)
        ]
    )
    peak = float(bands.max())
    mean = bands.mean(0)
    unit = max(peak, 1) / _BYTE
    is_coloured = np.abs(bands - mean).mean() > COLOURED * unit
    is_vivid = (np.ptp(bands, 0) > VIVID * unit).mean() > FEW_VIVID
    kept = bands if is_coloured or is_vivid else mean[None]
    fitted = [fit_picture(Image.fromarray(band), size) for band in kept]
    return np.concatenate(fitted).astype(np.float32), int(peak)
