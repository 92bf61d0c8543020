"""A user's own data, made up: class folders, and images with masks and depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("Red Kite", "Élan vital", "wind_mill (old)")
PALETTE = [0, 0, 0, 90, 90, 90, 255, 0, 0]


def class_folders(root: Path, n: int = 12, channels: int = 3) -> Path:
    """Write `n` pictures of each class, of many sizes, the classes told apart by a bright patch."""
    random = np.random.default_rng(0)
    for place, name in enumerate(CLASSES):
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(n):
            height, width = (int(side) for side in random.integers(40, 90, 2))
            pixels = random.integers(0, 60 + 60 * (i % 3), (height, width, channels))
            pixels[:, place * width // 3 : (place + 1) * width // 3] += 100
            picture = Image.fromarray(pixels.astype(np.uint8).squeeze())
            picture.save(folder / f"img {place}-{i:02d}.{'png' if i % 2 else 'jpg'}")
    return root


def scenes(root: Path, n: int = 24, names: str = "sky\nroad\ncar\n") -> Path:
    """Write `n` images of 48x32 pixels with masks (every other by palette) and depth."""
    for folder in ("images", "masks", "depth"):
        (root / folder).mkdir(parents=True)
    if names:
        (root / "classes.txt").write_text(names, "utf-8")
    random = np.random.default_rng(1)
    for i in range(n):
        mask = np.zeros((32, 48), np.uint8)
        mask[16:] = 1
        if i % 2:
            mask[12:20, 10 + i : 20 + i] = 2
        image = np.array([[200, 220, 255], [80, 80, 80], [250, 30, 30]])[mask] * (0.4 + 0.02 * i)
        noisy = (image + random.integers(0, 9, image.shape)).clip(0, 255).astype(np.uint8)
        depth = np.where(mask == 0, 0, 5 + mask.astype(int)) * 256
        Image.fromarray(noisy).save(root / "images" / f"{i:02d}.png")
        save_mask(root / "masks" / f"{i:02d}.png", mask, palette=i % 4 > 1)
        Image.fromarray(depth.astype(np.uint16)).save(root / "depth" / f"{i:02d}.png")
    return root


def save_mask(path: Path, mask: np.ndarray, palette: bool = False) -> None:
    picture = Image.fromarray(mask)
    if palette:
        picture = picture.copy()
        picture.putpalette(PALETTE)
    picture.save(path)
