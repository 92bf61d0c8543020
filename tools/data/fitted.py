"""Pictures at the size of a target's images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def fitted(pictures: Sequence[Image.Image], image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return pictures, at least one, cropped to an aspect ratio and scaled, (n, *image_shape)."""
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    scaled = [
        ImageOps.fit(picture.convert(mode), (width, height), Image.Resampling.LANCZOS)
        for picture in pictures
    ]
    pixels = np.stack([np.asarray(picture) for picture in scaled])
    return pixels[:, None] if channels == 1 else pixels.transpose(0, 3, 1, 2).copy()
