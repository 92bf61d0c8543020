from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from eval.montage import (
    caption_lines,
    drawable,
    fit_text,
    montage,
    montage_png,
    save_montage,
)


def images(n: int, channels: int = 1, height: int = 6, width: int = 8) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8)


def test_gray_tiles_keep_their_pixels_enlarged() -> None:
    given = images(3)
    sheet = montage(given, None, columns=2, scale=3)
    assert sheet.mode == "L"
    assert sheet.size == (2 * (8 * 3 + 4) + 4, 2 * (6 * 3 + 4) + 4)
    pixels = np.asarray(sheet)
    second = pixels[4 : 4 + 18, 4 + 28 : 4 + 28 + 24]
    assert np.array_equal(second, given[1, 0].repeat(3, 0).repeat(3, 1))


def test_rgb_tiles_keep_their_channels() -> None:
    given = images(1, channels=3)
    sheet = montage(given, None, columns=4, scale=1)
    assert sheet.mode == "RGB"
    assert sheet.size == (8 + 8, 6 + 8), "no more columns than images"
    assert np.array_equal(np.asarray(sheet)[4:10, 4:12], given[0].transpose(1, 2, 0))


def test_captions_are_drawn_below_their_tile_and_inside_its_width() -> None:
    given = np.zeros((2, 1, 32, 32), dtype=np.uint8)
    sheet = np.asarray(montage(given, ["W" * 100, ""], columns=2, scale=1))
    strip = sheet[36 + 1 :]
    assert (strip[:, :36] > 100).any()
    assert not (strip[:, 36:] > 100).any(), "the long caption must not reach the next tile"


@pytest.mark.parametrize("width", [0, 3, 20, 64, 500])
def test_fitted_text_is_never_wider_than_asked(width: int) -> None:
    font = ImageFont.load_default()
    text = fit_text("functional p=0.93\nas defective", width, font)
    assert font.getlength(text) <= width
    assert "\n" not in text
    assert text == "functional p=0.93 as defective" or width < 200


def test_png_bytes_and_file_are_the_same_picture(tmp_path: Path) -> None:
    given = images(5)
    data = montage_png(given, None, columns=5)
    save_montage(tmp_path / "deep" / "tiles.png", given, None, columns=5)
    assert (tmp_path / "deep" / "tiles.png").read_bytes() == data == montage_png(given, None, 5)
    with Image.open(BytesIO(data)) as picture:
        assert picture.format == "PNG"
        assert picture.size == (5 * (16 + 4) + 4, 12 + 8)


def test_a_long_caption_takes_two_lines_and_keeps_what_was_said() -> None:
    font = ImageFont.load_default()
    assert caption_lines("3 as 8", 128, font) == ["3 as 8"]
    assert caption_lines("Chinese Temple as Red Kite", 128, font) == [
        "Chinese Temple",
        "as Red Kite",
    ]
    assert len(caption_lines("W" * 100, 60, font)) == 1
    given = np.zeros((2, 1, 32, 32), dtype=np.uint8)
    one = montage(given, ["a", "b"], columns=2, scale=2)
    two = montage(given, ["a", "Temple as Red Kite"], columns=2, scale=2)
    assert (one.width, two.height - one.height) == (two.width, 15)


def test_letters_that_the_font_lacks_are_written_otherwise() -> None:
    assert drawable("Blüte Straße naïve 花 \u2013 Łódź") == "Blute Strasse naive ? - Lodz"
