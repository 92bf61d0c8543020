"""Random damage of valid data: a reading that is right, a note, or an error that names the data.

Each format is written once, damaged in a copy and read again. Labels of photographs may change only
where the notes do.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from memory.errors import DataError
from prompts.user_vocabulary import plain
from tools import targets
from tools.targets import SPLITS, Target

Labels = dict[str, Any]
"""Of each photograph, by its number: a class, or the class names of its pixels."""

N = 24
WIDTH, HEIGHT = 24, 16
NAMES = ("sky", "Straße", "car")
ODD: tuple[Any, ...] = (
    None, "", "x", "NaN", float("nan"), float("inf"), -1, 0, 10**30, 1.5, True, [], {}, [None],
    [[]], {"a": 1}, "é", "7", [1, 2, 3], "\x00", " ",
)  # fmt: skip


def mask_of(i: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[8:] = 1
    mask[4:12, i % 12 : i % 12 + 6] = 2
    return mask


def save_photograph(i: int, path: Path) -> None:
    """Write a photograph unlike the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(i).integers(-3, 4, (HEIGHT, WIDTH, 3))
    noise[::2] = -noise[1::2]
    pixels = np.full((HEIGHT, WIDTH, 3), 10 + 10 * i) + noise
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def number_of(name: str) -> str:
    """Return the number in the name of a photograph."""
    found = re.search(r"\d{2,}", name)
    return str(int(found[0])) if found else name


# Formats.


def write_classes(root: Path) -> None:
    for i in range(N):
        save_photograph(i, root / ("Élan vital", "red kite")[i % 2] / f"ü{i:02d}.png")


def write_table(root: Path) -> None:
    rows = [("file", "class", "Licht", "temp")]
    for i in range(N):
        save_photograph(i, root / f"{i:02d}.png")
        rows.append(
            (f"{i:02d}.png", ("Käse", "Brot")[i % 2], ("hell", "düster")[i // 2 % 2], str(i))
        )
    with (root / "attributes.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def write_masks(root: Path, images: str, masks: str, tail: str = "") -> None:
    for i in range(N):
        save_photograph(i, root / images / f"a_{i:02d}{tail and '_leftImg8bit'}.png")
        path = root / masks / f"a_{i:02d}{tail}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask_of(i)).save(path)
    (root / "classes.txt").write_text("\n".join(NAMES), "utf-8")


def write_voc(root: Path) -> None:
    write_masks(root, "JPEGImages", "SegmentationClass")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, numbers in (("train", range(16)), ("val", range(16, N))):
        (lists / f"{name}.txt").write_text("\n".join(f"a_{i:02d}" for i in numbers))


def write_cityscapes(root: Path) -> None:
    write_masks(root, "leftImg8bit/train/aachen", "gtFine/train/aachen", "_gtFine_labelIds")


def write_coco(root: Path) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(N):
        save_photograph(i, root / "images" / f"{i:02d}.png")
        images.append({"id": i + 1, "file_name": f"{i:02d}.png", "width": WIDTH, "height": HEIGHT})
        for number in (1, 2):
            rows, columns = np.nonzero(mask_of(i) == 2 if number == 2 else mask_of(i) > 0)
            left, top = int(columns.min()), int(rows.min())
            right, bottom = int(columns.max()) + 1, int(rows.max()) + 1
            if number == 1:
                left, top, right, bottom = 0, 8, WIDTH, HEIGHT
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": 10 * number,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
    categories = [{"id": 10, "name": "Straße"}, {"id": 20, "name": "car"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations" / "instances.json").write_text(json.dumps(content))


def write_hf(root: Path) -> None:
    save_rows(
        root,
        [{"image": photograph_bytes(i), "label": i % 2, "light": "ab"[i % 2]} for i in range(N)],
    )


def photograph_bytes(i: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        save_photograph(i, Path(folder) / "x.png")
        return {"bytes": (Path(folder) / "x.png").read_bytes(), "path": None}


def save_rows(root: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), root / "train.parquet")


# Damage.

Damage = Callable[[Path, Random], None]


def some_file(root: Path, random: Random, pattern: str = "*.png") -> Path:
    return random.choice(sorted(root.rglob(pattern)))


def truncate(root: Path, random: Random) -> None:
    file = some_file(root, random, random.choice(["*.png", "*.*"]))
    data = file.read_bytes()
    file.write_bytes(data[: random.randrange(len(data))])


def truncate_all(root: Path, random: Random) -> None:
    file = some_file(root, random, "*")
    file.write_bytes(file.read_bytes()[: random.randrange(file.stat().st_size)])


def flip_bytes(root: Path, random: Random) -> None:
    file = some_file(root, random)
    data = bytearray(file.read_bytes())
    for _ in range(random.randrange(1, 9)):
        data[random.randrange(len(data))] = random.randrange(256)
    file.write_bytes(data)


def to_text(root: Path, random: Random) -> None:
    some_file(root, random).write_text(random.choice(["", "<html>", "version https://git-lfs"]))


def remove(root: Path, random: Random) -> None:
    some_file(root, random, random.choice(["*.png", "*.*"])).unlink()


def rename(root: Path, random: Random) -> None:
    file = some_file(root, random)
    names = [f" {file.stem}", f"{file.stem}.png", file.stem.upper(), f"{file.stem} (1)"]
    suffix = random.choice([".png", ".PNG", ".jpg", ".jpeg", ".txt", ""])
    file.rename(file.with_name(random.choice(names) + suffix))


def decompose(root: Path, random: Random) -> None:
    form: Any = random.choice(["NFC", "NFD"])
    for file in sorted(root.rglob("*.png")):
        if random.random() < 0.5:
            file.rename(file.with_name(unicodedata.normalize(form, file.name)))


def decompose_folders(root: Path, random: Random) -> None:
    form: Any = random.choice(["NFC", "NFD"])
    for folder in [path for path in root.iterdir() if path.is_dir()]:
        folder.rename(folder.with_name(unicodedata.normalize(form, folder.name)))


def duplicate(root: Path, random: Random) -> None:
    file = some_file(root, random)
    shutil.copy(file, file.with_name(f"copy of {file.name}"))


def add_stray(root: Path, random: Random) -> None:
    folder = some_file(root, random).parent
    name = random.choice(
        ["Thumbs.db", ".DS_Store", "notes.txt", "x.json", "x.xml", "a.npz", "._a.png"]
    )
    (folder / name).write_bytes(random.choice([b"", b"{}", b"[1", b"\xff\xfe", b"a,b\n1,2\n"]))


def save_otherwise(root: Path, random: Random) -> None:
    """Save a picture in another mode or format, or at another size, under its name."""
    file = some_file(root, random)
    picture = Image.open(file)
    picture.load()
    how = random.choice(["RGB", "LA", "P", "JPEG", "WEBP", "size", "16", "palette", "F"])
    if how in ("JPEG", "WEBP"):
        picture.convert("RGB").save(file, format=how)
    elif how == "size":
        picture.resize((WIDTH * 2, HEIGHT)).save(file)
    elif how == "16":
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(file)
    elif how == "F":
        picture.convert("F").save(file, format="TIFF")
    elif how == "palette":
        other = picture.convert("L").copy()
        other.putpalette(random.randbytes(768))
        other.save(file)
    else:
        picture.convert(how).save(file)


def with_text(
    root: Path, random: Random, change: Callable[[str], str | bytes], pattern: str
) -> None:
    file = some_file(root, random, pattern)
    changed = change(file.read_text("utf-8"))
    file.write_bytes(changed if isinstance(changed, bytes) else changed.encode("utf-8", "replace"))


def recode(pattern: str) -> Damage:
    """Return a damage that saves a text file in another encoding or with other line ends."""

    def damage(root: Path, random: Random) -> None:
        code = random.choice(["utf-16", "utf-8-sig", "cp1252", "latin-1", "utf-32", "cp437"])
        ends = random.choice(["\n", "\r\n", "\r"])
        with_text(
            root,
            random,
            lambda text: ends.join(text.splitlines()).encode(code, "replace"),
            pattern,
        )

    return damage


def scramble(pattern: str) -> Damage:
    """Return a damage that removes, doubles or inserts some characters of a text file."""

    def damage(root: Path, random: Random) -> None:
        def change(text: str) -> str:
            place = random.randrange(len(text))
            return random.choice(
                [
                    text[:place],
                    text[:place]
                    + random.choice(["\x00", ",", '"', "\n", ";", "\t"])
                    + text[place:],
                    text + text[place:],
                    text + "\n\n,,\n",
                ]
            )

        with_text(root, random, change, pattern)

    return damage


def odd_json(root: Path, random: Random) -> None:
    """Damage one value of the annotations: missing, null, text, swapped with another."""
    file = root / "annotations" / "instances.json"
    content = json.loads(file.read_text())
    kind = random.choice(["images", "annotations", "annotations", "categories"])
    records = content[kind]
    for record in random.sample(records, random.choice([1, len(records) // 2])):
        key = random.choice(sorted(record))
        # Another name would be another class.
        odd = [value for value in ODD if key != "name" or not plain(str(value)) or value is None]
        how = random.random()
        if how < 0.2:
            del record[key]
        elif how < 0.3:
            other = random.choice(sorted(record))
            record[key], record[other] = record[other], record[key]
        elif how < 0.4 and isinstance(record[key], int):
            record[key] = random.choice([str(record[key]), float(record[key])])
        else:
            record[key] = random.choice(odd)
    if random.random() < 0.1:
        content[random.choice(sorted(content))] = random.choice(ODD)
    file.write_text(json.dumps(content))


def odd_cell(root: Path, random: Random) -> None:
    """Damage a cell, a row or a column of the table."""
    file = root / "attributes.csv"
    rows = list(csv.reader(io.StringIO(file.read_text("utf-8"))))
    row = random.randrange(len(rows))
    column = random.randrange(len(rows[0]))
    how = random.choice(["cell", "pop", "add", "twice", "drop", "header", "class"])
    if how == "cell":
        rows[row][column] = random.choice(["", "NA", "?", " ", '"', "=1+1", "nan", "x" * 99, "\t"])
    elif how == "pop":
        rows[row].pop(column)
    elif how == "add":
        rows[row].insert(column, "more")
    elif how == "twice":
        rows.append(rows[row])
    elif how == "drop":
        rows.pop(row)
    elif how == "class":
        rows[row][1] = random.choice(
            ["Käse;Brot", rows[row][1].upper(), f" {rows[row][1]} ", "Kase", "N/A", "['a', 'b']"]
        )
    else:
        rows[0][column] = random.choice(["", "class", "Class ", "split", "group", rows[0][0]])
    buffer = io.StringIO()
    separator = random.choice([",", ";", "\t"])
    csv.writer(buffer, delimiter=separator, lineterminator="\n").writerows(rows)
    file.write_text(buffer.getvalue(), "utf-8")


def odd_rows(root: Path, random: Random) -> None:
    """Damage a column of a parquet file in some rows, or in all."""
    import pyarrow.parquet as pq

    rows = pq.read_table(root / "train.parquet").to_pylist()
    how = random.choice(
        ["null label", "text", "bytes", "path", "no image", "float", "list", "names"]
    )
    chosen = random.sample(rows, random.choice([1, N // 2]))
    for row in chosen:
        if how == "null label":
            row["label"] = None
        elif how == "bytes":
            data = row["image"]["bytes"]
            row["image"]["bytes"] = data[: random.randrange(len(data))]
        elif how == "path":
            row["image"] = {"bytes": None, "path": random.choice(["/etc/passwd", "x.png", ""])}
        elif how == "no image":
            row["image"] = None
    for row in rows:
        value = row["label"]
        if how == "text":
            row["label"] = random.choice([str(value), f" {value}"])
        elif how == "float":
            row["label"] = float("nan") if row in chosen[:1] else float(value)
        elif how == "list":
            row["label"] = [value, 1 - value] if row in chosen else [value]
        elif how == "names":
            row["class"] = row.pop("label")
    with suppress(Exception):  # of pyarrow, which has many types for what it does not write
        save_rows(root, rows)


FILES: tuple[Damage, ...] = (
    truncate, flip_bytes, to_text, remove, rename, decompose, duplicate, add_stray,
)  # fmt: skip


class Format(NamedTuple):
    """How valid data are written and damaged.

    Attributes:
        target: That reads them.
        write: Writes them.
        damages: What is done to them.
    """

    target: str
    write: Callable[[Path], None]
    damages: tuple[Damage, ...]


FORMATS = {
    "coco": Format("folder", write_coco, (
        *FILES, *[odd_json] * 4, recode("*.json"), scramble("*.json"),
    )),
    "voc": Format("folder", write_voc, (
        *FILES, save_otherwise, recode("*.txt"), scramble("train.txt"),
    )),
    "cityscapes": Format("folder", write_cityscapes, (*FILES, save_otherwise, recode("*.txt"))),
    "classes": Format("folder", write_classes, (*FILES, decompose_folders, save_otherwise)),
    "table": Format("folder", write_table, (
        *FILES, *[odd_cell] * 4, recode("*.csv"), scramble("*.csv"),
    )),
    "hf": Format("hf", write_hf, (*[odd_rows] * 4, truncate_all)),
}  # fmt: skip


def read(format_: Format, root: Path, cache_dir: Path) -> Target:
    options: dict[str, Any] = {"path": str(root), "size": f"{WIDTH}x{HEIGHT}"}
    return targets.build(format_.target, cache_dir, **options)


def labels_of(target: Target) -> Labels:
    names = np.array([*target.pixel_classes, *["?"] * (256 - len(target.pixel_classes))])
    found: Labels = {}
    for split in map(target.split, SPLITS):
        for row, name in enumerate(split.ids):
            number = number_of(name)
            if "segmentation" in split.labels:
                found[number] = names[split.labels["segmentation"][row]]
            else:
                found[number] = target.class_names[split.classes[row]]
    return found


def notes_of(target: Target) -> set[str]:
    return set(target.notice.split("\n- ")[1:])


@cache
def valid(name: str) -> tuple[Path, Labels, frozenset[str]]:
    """Return valid data, written once, with their labels and notes."""
    folder = Path(tempfile.mkdtemp(prefix=f"valid-{name}-"))
    root = folder / "data"
    root.mkdir()
    FORMATS[name].write(root)
    target = read(FORMATS[name], root, folder / "cache")
    return root, labels_of(target), frozenset(notes_of(target))


@pytest.fixture(scope="module", autouse=True)
def clean_up() -> Iterator[None]:
    yield
    for name in FORMATS:
        shutil.rmtree(valid(name)[0].parent)
    valid.cache_clear()


def check(name: str, number: int, seed: int) -> None:
    """Damage data, read them, and compare the labels with those of the valid data."""
    format_ = FORMATS[name]
    root, right, notes = valid(name)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "data"
        shutil.copytree(root, copy)
        format_.damages[number](copy, Random(seed))
        try:
            target = read(format_, copy, Path(folder) / "cache")
        except DataError as error:
            assert str(copy) in str(error), str(error)
            return
        found = labels_of(target)
        changed = [i for i, label in found.items() if not np.array_equal(label, right.get(i, ""))]
        assert not changed or notes_of(target) - notes, (changed, target.notice)


def checked(name: str, n: int) -> None:
    numbers = st.integers(0, len(FORMATS[name].damages) - 1)
    suppressed = [HealthCheck.too_slow]

    @settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        suppress_health_check=suppressed,
        database=None,
    )
    @given(number=numbers, seed=st.integers(0, 2**32))
    def run(number: int, seed: int) -> None:
        check(name, number, seed)

    run()


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_read_right_noted_or_named(name: str) -> None:
    if name == "hf":
        pytest.importorskip("datasets", reason="needs the extra hf")
    checked(name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_much_damage_is_read_right_noted_or_named(name: str) -> None:
    checked(name, 340)
