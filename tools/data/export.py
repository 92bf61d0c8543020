"""Export of a session's images as a data set for other programs, with a data set card.

    parquet      data/*.parquet, copies of the session's files
    imagefolder  images/*.png and metadata.jsonl
    webdataset   data-*.tar with NAME.png, NAME.json and pixel labels
    coco         images/*.png and annotations.json, for segmentation: regions as uncompressed RLE

The first three load with `datasets.load_dataset`, see `loading`.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow.parquet as pq

from eval.report.templates import render_text
from memory.errors import SettingsError
from memory.files import storing, write_atomic, write_bytes
from prompts.user_vocabulary import CLASS
from tools.data.regions import run_lengths
from tools.data.samples import KINDS, VOID
from tools.data.shards import decode_label, decode_png, read_table, reading_shard

Format = Literal["imagefolder", "parquet", "coco", "webdataset"]
FORMATS: tuple[Format, ...] = get_args(Format)


class Source(NamedTuple):
    """Contents of an export and of its card.

    Attributes:
        session: Name of the session.
        shards: Shards of images, in order.
        class_names: Class names of the labels.
        pixel_classes: Class names of the ids in segmentations; () without segmentation.
        generator: Name of the generator.
        target: Name of the target.
        licence: Licence of the target.
        origin: Name and value pairs that describe how the images were generated.
        likeness: Markdown lines on the similarity to photographs and on near copies of them.
    """

    session: str
    shards: Sequence[Path]
    class_names: Sequence[str]
    pixel_classes: Sequence[str]
    generator: str
    target: str
    licence: str
    origin: Sequence[tuple[str, str]] = ()
    likeness: Sequence[str] = ()


def export(source: Source, form: Format, folder: Path) -> int:
    """Write a data set to a new or empty folder; return its number of images.

    Raises:
        SettingsError: The folder is not empty, or the format does not support the labels.
        StorageError: The folder cannot be written.
    """
    if not source.shards:
        raise SettingsError(f"The session {source.session!r} has no images yet to export.")
    # An interrupted export leaves an incomplete data set here, which is replaced.
    stage = folder / ".shaping-new"
    with storing(folder):
        if folder.exists() and any(path != stage for path in folder.iterdir()):
            raise SettingsError(
                f"The folder {folder} is not empty. Name another one with --output."
            )
    write: Callable[[Source, Path], int] = {
        "imagefolder": _imagefolder,
        "parquet": _parquet,
        "coco": _coco,
        "webdataset": _webdataset,
    }[form]
    with storing(folder):
        shutil.rmtree(stage, ignore_errors=True)
        try:
            n_images = write(source, stage)
            write_bytes(stage / "README.md", card(source, form).encode())
            for path in stage.iterdir():
                path.rename(folder / path.name)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return n_images


def loading(form: Format, folder: Path) -> str:
    """Return the Python expression that loads an exported data set."""
    if form == "coco":
        return f"json.load(open({str(folder / 'annotations.json')!r}))"
    place = folder / "images" if form == "imagefolder" else folder
    return f"datasets.load_dataset({str(place)!r}, split='train')"


def card(source: Source, form: Format) -> str:
    """Return the data set card: composition, label encodings, prompts, quality, licence."""
    texts: Counter[str] = Counter()
    tables: dict[str, Counter[str]] = defaultdict(Counter)
    weights, labels = [], set[str]()
    for row in _rows(source):
        labels |= row.keys() & set(KINDS)
        texts[row["text"]] += 1
        # The class attribute repeats the label.
        attributes = {k: v for k, v in json.loads(row["attributes"]).items() if k != CLASS}
        for key, value in ({"class": source.class_names[row["label"]]} | attributes).items():
            tables[key][value] += 1
        weights.append(row["weight"])
    return render_text(
        "tools.data",
        "card.md.j2",
        **source._asdict(),
        files={"parquet": "data/*.parquet", "webdataset": "data-*.tar"}.get(form),
        labels=labels,
        form=form,
        n=len(weights),
        n_kept=sum(weight >= 1 for weight in weights),
        mean_weight=sum(weights) / len(weights),
        tables=sorted(tables.items(), key=lambda table: (table[0] != "class", table[0])),
        texts=texts.most_common(),
    )


def _rows(source: Source) -> Iterator[dict[str, Any]]:
    """Yield the rows of all shards as Python values, with images as PNG bytes."""
    for path in source.shards:
        with reading_shard(path):
            rows = read_table(path).to_pylist()
        yield from rows


def _n_images(source: Source) -> int:
    n_images = 0
    for path in source.shards:
        with reading_shard(path):
            n_images += pq.read_metadata(path).num_rows
    return n_images


def _parquet(source: Source, folder: Path) -> int:
    n_images = _n_images(source)
    data = folder / "data"
    data.mkdir(parents=True)
    for path in source.shards:
        place = data / f"{path.parent.name}-{path.name}"
        # Copied, not linked: edits of an export must not change the session.
        shutil.copyfile(path, place)
    return n_images


def _imagefolder(source: Source, folder: Path) -> int:
    def write(file: IO[bytes]) -> None:
        for row in _rows(source):
            name = row["image"]["path"]
            write_bytes(folder / "images" / name, row["image"]["bytes"])
            # Not in the folder of the images, where `datasets` would read them as images.
            for kind in KINDS:
                if kind in row:
                    write_bytes(folder / kind / name, row[kind]["bytes"])
            line = json.dumps({"file_name": name, **_fields(row, source)})
            file.write(f"{line}\n".encode())

    write_atomic(folder / "images" / "metadata.jsonl", write)
    return _n_images(source)


def _webdataset(source: Source, folder: Path) -> int:
    n_images = 0
    for number, shard in enumerate(source.shards):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for row in _rows(source._replace(shards=[shard])):
                key = row["image"]["path"].removesuffix(".png")
                _add(tar, f"{key}.png", row["image"]["bytes"])
                for kind in KINDS:
                    if kind in row:
                        _add(tar, f"{key}.{kind}.png", row[kind]["bytes"])
                _add(tar, f"{key}.json", json.dumps(_fields(row, source)).encode())
                n_images += 1
        write_bytes(folder / f"data-{number:05d}.tar", file.getvalue())
    return n_images


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _fields(row: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return the metadata of an image."""
    return {
        "label": source.class_names[row["label"]],
        "text": row["text"],
        "prompt_id": row["prompt_id"],
        "attributes": row["attributes"],
        "weight": row["weight"],
    }


def _coco(source: Source, folder: Path) -> int:
    with reading_shard(source.shards[0]):
        columns = pq.read_schema(source.shards[0]).names
    if "segmentation" not in columns:
        raise SettingsError(
            "COCO holds regions of images, and the images of this session have no "
            "segmentation. Choose imagefolder, parquet or webdataset."
        )
    names = [{"id": i + 1, "name": name} for i, name in enumerate(source.pixel_classes)]
    described = {"description": f"Generated images of the shaping session {source.session}"}
    head = json.dumps({"info": described, "categories": names})

    def write(file: IO[bytes]) -> None:
        file.write(f'{head[:-1]}, "images": ['.encode())
        _write_items(file, _coco_images(source, folder / "images"))
        file.write(b'], "annotations": [')
        _write_items(file, _coco_regions(source))
        file.write(b"]}\n")

    write_atomic(folder / "annotations.json", write)
    return _n_images(source)


def _write_items(file: IO[bytes], items: Iterable[Mapping[str, Any]]) -> None:
    """Write the items of a JSON list one at a time, adding an id to each."""
    for number, item in enumerate(items, 1):
        comma = ",\n" if number > 1 else "\n"
        file.write(f"{comma}{json.dumps({'id': number, **item})}".encode())


def _coco_images(source: Source, folder: Path) -> Iterator[dict[str, Any]]:
    """Write the images; yield their COCO records."""
    for row in _rows(source):
        name = row["image"]["path"]
        write_bytes(folder / name, row["image"]["bytes"])
        _, height, width = decode_png(row["image"]["bytes"]).shape
        yield {"file_name": name, "height": height, "width": width, **_fields(row, source)}


def _coco_regions(source: Source) -> Iterator[dict[str, Any]]:
    """Yield a COCO annotation for each class in each image."""
    for number, row in enumerate(_rows(source), 1):
        ids = decode_label("segmentation", row["segmentation"]["bytes"])
        for category in np.unique(ids[ids != VOID]):
            mask = ids == category
            rows, columns = np.nonzero(mask)
            left, top, right, bottom = (
                int(edge) for edge in (columns.min(), rows.min(), columns.max(), rows.max())
            )
            yield {
                "image_id": number,
                "category_id": int(category) + 1,
                "segmentation": {"size": list(ids.shape), "counts": run_lengths(mask)},
                "area": int(mask.sum()),
                "bbox": [left, top, right + 1 - left, bottom + 1 - top],
                # COCO requires iscrowd=1 for regions in run-length encoding.
                "iscrowd": 1,
            }
