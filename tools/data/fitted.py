"""Scaling of pictures to the size of a target's images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps


def fit_picture(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a picture to cover (width, height), and crop the rest equally on both sides.

    Returns:
        Array (1 or 3, height, width) of the picture's data type, float32 for mode F.
    """
    pixels = np.asarray(ImageOps.fit(picture, size, Image.Resampling.LANCZOS))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def fitted(pictures: Sequence[Image.Image], image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Scale and crop one or more pictures to a shape; return uint8, (n, *image_shape)."""
    channels, height, width = image_shape
    mode = "L" if channels == 1 else "RGB"
    scaled = [fit_picture(picture.convert(mode), (width, height)) for picture in pictures]
    return np.ascontiguousarray(np.stack(scaled))
