"""Montages: images with captions as tiles in a grid."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from memory.files import write_bytes

# Side in pixels of a picture that a language model is shown.
SHEET_PX = 512
_GAP_PX = 4
_CAPTION_PX = 15
_CAPTION_LINES = 2
# Replacements of letters that NFKD does not decompose into an ASCII letter.
_IN_ASCII = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "ø": "o", "Ø": "O", "đ": "d", "ł": "l", "Ł": "L",
     "\u0131": "i", "\u2013": "-", "\u2014": "-", "\u2019": "'"}
)  # fmt: skip
# A dark background suits photographs, on light and on dark pages.
BACKGROUND = (22, 24, 28)
INK = (226, 226, 222)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def montage(
    images: NDArray[np.uint8], captions: Sequence[str] | None, columns: int, scale: int = 2
) -> Image.Image:
    """Lay images out in rows of tiles, each with its caption below.

    Args:
        images: uint8, (n, c, h, w) with n at least 1 and c = 1 (gray) or 3 (RGB).
        captions: one per image, wrapped to at most two lines of the width of a tile; None: without
            captions.
        columns: largest number of tiles in a row.
        scale: integer factor by which images are enlarged.

    Returns:
        An image of mode L or RGB.
    """
    n_images, channels, height, width = images.shape
    columns = min(columns, n_images)
    rows = -(-n_images // columns)
    tile_w, tile_h = width * scale, height * scale
    font = ImageFont.load_default()
    lines = [caption_lines(caption, tile_w, font) for caption in captions or ()]
    step_x = tile_w + _GAP_PX
    step_y = tile_h + _GAP_PX + _CAPTION_PX * max((len(caption) for caption in lines), default=0)
    mode = "RGB" if channels == 3 else "L"
    size = (columns * step_x + _GAP_PX, rows * step_y + _GAP_PX)
    sheet = Image.new(mode, size, BACKGROUND if channels == 3 else BACKGROUND[0])
    draw = ImageDraw.Draw(sheet)
    ink = INK if channels == 3 else INK[0]
    for i, image in enumerate(images):
        x = _GAP_PX + i % columns * step_x
        y = _GAP_PX + i // columns * step_y
        pixels = image.transpose(1, 2, 0) if channels == 3 else image[0]
        tile = Image.fromarray(np.ascontiguousarray(pixels))
        sheet.paste(tile.resize((tile_w, tile_h), Image.Resampling.NEAREST), (x, y))
        for number, line in enumerate(lines[i] if lines else ()):
            middle = y + tile_h + _CAPTION_PX * (number + 0.5) + 1
            draw.text((x, middle), line, fill=ink, font=font, anchor="lm")
    return sheet


def montage_png(
    images: NDArray[np.uint8], captions: Sequence[str] | None, columns: int, scale: int = 2
) -> bytes:
    """Return a montage encoded as PNG; see `montage`."""
    stream = BytesIO()
    montage(images, captions, columns, scale).save(stream, format="PNG")
    return stream.getvalue()


def save_montage(
    path: Path,
    images: NDArray[np.uint8],
    captions: Sequence[str] | None,
    columns: int,
    scale: int = 2,
) -> None:
    """Write a montage as a PNG file atomically; see `montage`."""
    write_bytes(path, montage_png(images, captions, columns, scale))


def caption_lines(text: str, width_px: int, font: Font) -> list[str]:
    """Wrap a caption between words to at most two lines, each cut to the width."""
    words = drawable(text).split()
    if not words or font.getlength(" ".join(words)) <= width_px:
        return [" ".join(words)]
    n = 1
    while n < len(words) and font.getlength(" ".join(words[: n + 1])) <= width_px:
        n += 1
    # In "defective as functional" the prediction begins the second line.
    if "as" in words[1 : n + 1]:
        n = words.index("as", 1)
    parts = [words[:n], words[n:]][:_CAPTION_LINES]
    return [fit_text(" ".join(part), width_px, font) for part in parts if part]


def drawable(text: str) -> str:
    """Return a text in ASCII, as Pillow's font requires: accents are removed, others become "?"."""
    plain = unicodedata.normalize("NFKD", text.translate(_IN_ASCII))
    return "".join(c if c.isascii() else "?" for c in plain if not unicodedata.combining(c))


def fit_text(text: str, width_px: int, font: Font) -> str:
    """Return a text on one line, cut with an ellipsis where it is wider than `width_px`."""
    line = " ".join(text.split())
    if font.getlength(line) <= width_px:
        return line
    while line and font.getlength(line + "...") > width_px:
        line = line[:-1]
    return line.rstrip() + "..." if line else ""
