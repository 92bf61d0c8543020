"""The value range of every kind of picture: none is read as black, or as white."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tools.targets.user import deep, label_files, pictures
from tools.targets.user.loading import Item, ReadOptions, load_items
from tools.targets.user.pictures import Source, UnreadableImageError
from tools.targets.validation import ValidationReport

RAMP = np.tile(np.linspace(0, 255, 32), (16, 1)).round()
COLOURS = np.stack([RAMP, RAMP / 2, 255 - RAMP], -1)
OPAQUE = np.full((*RAMP.shape, 1), 255)


def png(values: np.ndarray, path: Path) -> None:
    """Write a PNG file of 16 bits, (h, w, channels), which Pillow does not write in colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))


def tiff(values: np.ndarray, path: Path, order: str = "<") -> None:
    """Write a TIFF file of 16 bits, (h, w, channels), uncompressed."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 0), (259, 3, 1, 1),
        (262, 3, 1, 2 if channels > 2 else 1), (273, 4, 1, 0), (277, 3, 1, channels),
        (278, 3, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    end = 8 + 2 + 12 * len(entries) + 4
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, n, value in entries:
        at = {258: end if channels > 1 else 16, 273: end + len(bits)}.get(tag, value)
        is_short = kind == 3 and n == 1
        out += struct.pack(f"{order}HHI", tag, kind, n)
        out += struct.pack(f"{order}HH", at, 0) if is_short else struct.pack(f"{order}I", at)
    path.write_bytes(out + b"\0\0\0\0" + bits + data)


def ppm(values: np.ndarray, path: Path, highest: int = 65535) -> None:
    height, width, _ = values.shape
    path.write_bytes(f"P6 {width} {height} {highest}\n".encode() + values.astype(">u2").tobytes())


def save(mode: str, ending: str) -> Callable[[Path], Source]:
    """Return a function that writes the ramp in a mode of Pillow."""

    def write(folder: Path) -> Source:
        path = folder / f"x{ending}"
        is_gray = mode in ("L", "LA", "1")
        values = RAMP if is_gray else COLOURS
        picture = Image.fromarray(values.astype(np.uint8))
        picture.convert(mode, dither=Image.Dither.NONE).save(path)
        return path

    return write


def of_values(
    write: Callable[[np.ndarray, Path], None], values: np.ndarray
) -> Callable[..., Source]:
    def writes(folder: Path) -> Source:
        write(values.astype(np.uint16), folder / "x")
        return folder / "x"

    return writes


def of_array(values: np.ndarray) -> Callable[..., Source]:
    return lambda folder: values


GRAY = RAMP[..., None]
KINDS: dict[str, Callable[[Path], Source]] = {
    **{f"{mode} {ending}": save(mode, ending) for mode, ending in (
        ("L", ".png"), ("LA", ".png"), ("RGB", ".png"), ("RGBA", ".png"), ("P", ".gif"),
        ("L", ".jpg"), ("RGB", ".jpg"), ("CMYK", ".jpg"), ("RGB", ".webp"), ("L", ".bmp"),
        ("L", ".tif"), ("LA", ".tif"), ("CMYK", ".tif"), ("LAB", ".tif"),
        ("RGBA", ".tif"), ("L", ".pgm"), ("RGB", ".ppm"), ("1", ".png"),
    )},
    **{f"{name} of {bits} bits": of_values(write, values * (1 << bits - 8)) for bits in (12, 16)
       for name, write, values in (
        ("gray PNG", png, GRAY), ("gray and alpha PNG", png, np.dstack([RAMP, OPAQUE])),
        ("colour PNG", png, COLOURS), ("colour and alpha PNG", png, np.dstack([COLOURS, OPAQUE])),
        ("gray TIFF", tiff, GRAY), ("colour TIFF", tiff, COLOURS),
        ("colour TIFF, big endian", lambda v, p: tiff(v, p, ">"), COLOURS),
        ("colour PPM", ppm, COLOURS),
    )},
    "PPM up to 4095": of_values(lambda v, p: ppm(v, p, 4095), COLOURS * 16),
    **{f"array {kind}": of_array((COLOURS * scale).astype(kind)) for kind, scale in (
        ("uint8", 1), ("int64", 1), ("float32", 1 / 255), ("uint16", 16),
    )},
    "array of bool": of_array(RAMP > 127),
    "array, channels first": of_array(COLOURS.transpose(2, 0, 1).astype(np.int32)),
    "array, one channel": of_array(GRAY.astype(np.int64)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_dark_is_dark_and_bright_is_bright(tmp_path: Path, kind: str) -> None:
    item = Item("x", KINDS[kind](tmp_path))
    report = ValidationReport()
    (entry,) = load_items([item], (32, 16), ReadOptions(), False, report)
    assert not report.errors
    assert entry.image.dtype == np.uint8
    is_gray = any(word in kind for word in ("gray", "L ", "LA ", "1 ", "bool", "one channel"))
    right: np.ndarray = RAMP[None] if is_gray and "LAB" not in kind else COLOURS.transpose(2, 0, 1)
    if kind in ("1 .png", "array of bool"):
        right = (RAMP[None] > 127) * 255
    assert entry.image.shape == right.shape
    lossy = any(word in kind for word in ("jpg", "gif", "webp", "CMYK", "LAB"))
    assert np.abs(entry.image.astype(int) - right).mean() < (16 if lossy else 1.5)


@pytest.mark.parametrize("values", [COLOURS - 1.5, COLOURS * 1e9, COLOURS * np.nan, COLOURS[None]])
def test_arrays_of_no_known_range_are_refused(values: np.ndarray) -> None:
    with pytest.raises(UnreadableImageError):
        pictures.open_picture(values)


def test_ids_in_the_low_bytes_of_colours_are_ids(tmp_path: Path) -> None:
    mask = (RAMP > 100).astype(np.uint16) + (RAMP > 200)
    png(np.dstack([mask] * 3), tmp_path / "x.png")
    assert np.array_equal(label_files.read_ids(tmp_path / "x.png"), mask)
    png(np.dstack([mask * 300] * 3), tmp_path / "x.png")
    with pytest.raises(UnreadableImageError, match="16 bits"):
        label_files.read_mask(tmp_path / "x.png")


def test_pictures_that_differ_in_low_bytes_are_no_copies(tmp_path: Path) -> None:
    digests = set()
    for i in range(2):
        png((COLOURS / 2 + i).astype(np.uint16), tmp_path / "x.png")
        digests.add(pictures.pixel_digest(pictures.open_picture(tmp_path / "x.png")))
    assert len(digests) == 2


@pytest.mark.parametrize("bits", [8, 16])
def test_a_few_pixels_of_strong_colour_make_a_photograph_coloured(bits: int) -> None:
    values = np.full((64, 64, 3), 9, np.uint16)
    values[0, 0] = 255
    # A cell under a fluorescence microscope or a light at night, and noise.
    for colour, n_channels in (((250, 9, 9), 3), ((60, 9, 9), 1)):
        values[5:8, 5:8] = colour
        picture = Image.fromarray(values.astype(np.uint8))
        picture = deep.from_values(values * 256) if bits == 16 else picture
        assert len(pictures.fit_photograph(picture, (64, 64))[0]) == n_channels


@pytest.mark.parametrize("values", [RAMP - 1000, RAMP + 66000])
def test_whole_numbers_out_of_16_bits_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "x.tif")
    picture = pictures.open_picture(tmp_path / "x.tif")
    with pytest.raises(UnreadableImageError, match=f"{values.min():.0f} to {values.max():.0f}"):
        pictures.fit_photograph(picture, (32, 16))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_shapes_that_only_transparency_shows_are_refused(
    tmp_path: Path, mode: str, channels: int
) -> None:
    picture = Image.new(mode, (32, 16))
    picture.putalpha(Image.fromarray(RAMP.astype(np.uint8)))
    picture.save(tmp_path / "icon.png")
    _, read, problems = pictures.read_photographs([tmp_path / "icon.png"], (channels, 16, 32))
    assert not read
    assert "transparen" in problems[0]


def test_normals_have_length_one(tmp_path: Path) -> None:
    x = np.linspace(-0.8, 0.8, 32) * np.ones((16, 1))
    normals = np.stack([x, 0 * x, np.sqrt(1 - x**2)])
    pixels = (127 * normals + 128).round().astype(np.uint8).transpose(1, 2, 0)
    pixels[:4] = 0
    Image.fromarray(pixels).save(tmp_path / "x.png")
    read = label_files.read_normals(tmp_path / "x.png")
    assert np.isnan(read[:, :4]).all()
    assert np.abs(read - normals)[:, 4:].max() < 0.02
    Image.fromarray(COLOURS.astype(np.uint8)).save(tmp_path / "photograph.png")
    with pytest.raises(UnreadableImageError, match="length"):
        label_files.read_normals(tmp_path / "photograph.png")


@pytest.mark.parametrize("kind", ["bits", "metres"])
def test_marks_of_no_depth_are_unknown(tmp_path: Path, kind: str) -> None:
    metres = np.where(RAMP > 200, 1e10, RAMP + 1)
    if kind == "bits":
        bits = np.where(RAMP > 200, 65535, (RAMP + 1) * 256).astype(np.uint16)
        Image.fromarray(bits).save(tmp_path / "x.png")
    else:
        np.save(tmp_path / "x.npy", metres)
    read = label_files.read_depth(next(tmp_path.iterdir()), scale=256)
    assert np.array_equal(read, np.where(RAMP > 200, np.nan, RAMP + 1), equal_nan=True)


def test_an_animation_may_be_cut_anywhere(tmp_path: Path) -> None:
    frames = [Image.effect_noise((32, 16), 40 + i) for i in range(2)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    data = (tmp_path / "x.gif").read_bytes()
    report = ValidationReport()
    items = [Item(f"{n}", data[:n]) for n in range(0, len(data), 5)]
    assert load_items(items, (32, 16), ReadOptions(), False, report)
    assert not report.errors


@pytest.mark.parametrize("ending", [".webp", ".png"])
def test_a_photograph_with_damaged_exif_is_read_as_it_is_stored(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"x{ending}"
    Image.fromarray(RAMP.astype(np.uint8)).save(path, exif=b"Exif\0\0MM\x7f*\0\0\0\x08\0\x01")
    (entry,) = load_items([Item("x", path)], (32, 16), ReadOptions(), False, ValidationReport())
    read, *_ = pictures.read_photographs([path], entry.image.shape)
    assert np.array_equal(read[0], entry.image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_pillow_turns_them(tmp_path: Path, orientation: int) -> None:
    picture = Image.fromarray(RAMP.astype(np.uint8))
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "x.png", exif=exif)
    turned = pictures.upright(pictures.open_picture(tmp_path / "x.png"))
    right = ImageOps.exif_transpose(Image.open(tmp_path / "x.png"))
    assert np.array_equal(np.asarray(turned), np.asarray(right))
