"""The images of a session as a data set for other programs, with its card.

    parquet      data/*.parquet, linked where the disk can do that
    imagefolder  images/*.png and metadata.jsonl
    webdataset   data-*.tar with NAME.png, NAME.json and the labels of pixels beside them
    coco         images/*.png and annotations.json, for segmentation: regions as uncompressed RLE

The first three load with `datasets.load_dataset`, see `loading`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from memory.errors import DataError, SettingsError
from memory.files import write_bytes, write_json
from prompts.user_vocabulary import CLASS
from tools.data.regions import run_lengths
from tools.data.samples import VOID
from tools.data.shards import decode_label, decode_png

Format = Literal["imagefolder", "parquet", "coco", "webdataset"]
FORMATS: tuple[Format, ...] = ("imagefolder", "parquet", "coco", "webdataset")
LABELS = ("segmentation", "depth", "normals")


class Source(NamedTuple):
    """What is exported: shards in order, names of classes, and what the card says of it.

    generator: what drew the images; licence: the notice of the target.
    """

    session: str
    shards: Sequence[Path]
    class_names: Sequence[str]
    pixel_classes: Sequence[str]
    generator: str
    target: str
    licence: str


def export(source: Source, form: Format, folder: Path) -> int:
    """Write a data set into a new or empty folder; return how many images it has.

    Raises SettingsError for a folder that holds something, or a format that cannot hold the
    labels.
    """
    if not source.shards:
        raise SettingsError(f"The session {source.session!r} has no images yet to export.")
    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"The folder {folder} is not empty. Name another one with --output.")
    write: Callable[[Source, Path], int] = {
        "imagefolder": _imagefolder,
        "parquet": _parquet,
        "coco": _coco,
        "webdataset": _webdataset,
    }[form]
    n_images = write(source, folder)
    write_bytes(folder / "README.md", card(source, form).encode())
    return n_images


def loading(form: Format, folder: Path) -> str:
    """Return the line of Python that opens an exported data set."""
    if form == "coco":
        return f"json.load(open({str(folder / 'annotations.json')!r}))"
    place = folder / "images" if form == "imagefolder" else folder
    return f"datasets.load_dataset({str(place)!r}, split='train')"


def card(source: Source, form: Format) -> str:
    """Return the data set card: composition, prompts, generator, quality, licence."""
    texts: Counter[str] = Counter()
    classes: Counter[str] = Counter()
    said: dict[str, Counter[str]] = {}
    n_kept, weight = 0, 0.0
    for row in _rows(source):
        texts[row["text"]] += 1
        classes[source.class_names[row["label"]]] += 1
        for key, value in json.loads(row["attributes"]).items():
            if key != CLASS:  # is said by the table of classes
                said.setdefault(key, Counter())[value] += 1
        n_kept += row["weight"] >= 1
        weight += row["weight"]
    n = sum(texts.values())
    lines = [
        "---",
        "license: other",
        f"pretty_name: {json.dumps(source.session)}",
        "tags: [synthetic]",
    ]
    if form == "parquet":
        lines += ["configs:", "- config_name: default", "  data_files: data/*.parquet"]
    elif form == "webdataset":
        lines += ["configs:", "- config_name: default", "  data_files: data-*.tar"]
    lines += [
        "---",
        f"# {source.session}",
        "",
        f"{n} generated images of the shaping session `{source.session}` for the target "
        f"`{source.target}`, drawn by the generator `{source.generator}`. "
        "No image is a photograph.",
        "",
        "## Composition",
        "",
        *_table("class", classes),
        *(line for key, values in sorted(said.items()) for line in _table(key, values)),
        "## Quality",
        "",
        f"The audit keeps {n_kept} of {n} images ({n_kept / n:.0%}); the mean weight is "
        f"{weight / n:.3f}. The weight of an image, 0 to 1, is how much it counted in training.",
        "",
        f"## Prompts ({len(texts)})",
        "",
        *(f"- {count} x {_escaped(text)}" for text, count in texts.most_common(200)),
        *([f"- and {len(texts) - 200} more"] if len(texts) > 200 else []),
        "",
        "## Licence",
        "",
        source.licence or "The target states no licence of its own.",
        "",
    ]
    return "\n".join(lines)


def _table(name: str, counts: Mapping[str, int]) -> list[str]:
    rows = [f"| {value} | {count} |" for value, count in sorted(counts.items())]
    return [f"| {name} | images |", "|---|---|", *rows, ""]


def _escaped(text: str) -> str:
    return " ".join(text.split()).translate({ord(c): f"\\{c}" for c in "\\`*_<>[]"})


def _rows(source: Source) -> Iterator[dict[str, Any]]:
    """Yield the rows of all shards as plain values, pictures as PNG files' bytes."""
    for path in source.shards:
        try:
            yield from pq.read_table(path).to_pylist()
        except (OSError, ValueError) as error:
            raise DataError(f"The shard {path} is missing or damaged: {error}") from error


def _parquet(source: Source, folder: Path) -> int:
    data = folder / "data"
    data.mkdir(parents=True)
    for path in source.shards:
        place = data / f"{path.parent.name}-{path.name}"
        try:
            os.link(path, place)
        except OSError:
            shutil.copyfile(path, place)
    return sum(pq.read_metadata(path).num_rows for path in source.shards)


def _imagefolder(source: Source, folder: Path) -> int:
    lines = []
    for row in _rows(source):
        name = row["image"]["path"]
        write_bytes(folder / "images" / name, row["image"]["bytes"])
        # Beside the images, where `datasets` would take them for more images.
        for kind in LABELS:
            if kind in row:
                write_bytes(folder / kind / name, row[kind]["bytes"])
        lines.append(json.dumps({"file_name": name, **_said(row, source)}))
    write_bytes(folder / "images" / "metadata.jsonl", "\n".join([*lines, ""]).encode())
    return len(lines)


def _webdataset(source: Source, folder: Path) -> int:
    n_images = 0
    for number, shard in enumerate(source.shards):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for row in _rows(source._replace(shards=[shard])):
                key = row["image"]["path"].removesuffix(".png")
                _add(tar, f"{key}.png", row["image"]["bytes"])
                for kind in LABELS:
                    if kind in row:
                        _add(tar, f"{key}.{kind}.png", row[kind]["bytes"])
                _add(tar, f"{key}.json", json.dumps(_said(row, source)).encode())
                n_images += 1
        write_bytes(folder / f"data-{number:05d}.tar", file.getvalue())
    return n_images


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _said(row: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return what is known of an image beside its pixels."""
    return {
        "label": source.class_names[row["label"]],
        "text": row["text"],
        "prompt_id": row["prompt_id"],
        "attributes": row["attributes"],
        "weight": row["weight"],
    }


def _coco(source: Source, folder: Path) -> int:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in _rows(source):
        if "segmentation" not in row:
            raise SettingsError(
                "COCO holds regions of images, and the images of this session have no "
                "segmentation. Choose imagefolder, parquet or webdataset."
            )
        name = row["image"]["path"]
        write_bytes(folder / "images" / name, row["image"]["bytes"])
        _, height, width = decode_png(row["image"]["bytes"]).shape
        number = len(images) + 1
        size = {"id": number, "file_name": name, "height": height, "width": width}
        images.append(size | _said(row, source))
        ids = decode_label("segmentation", row["segmentation"]["bytes"])
        for category in np.unique(ids[ids != VOID]):
            mask = ids == category
            rows, columns = np.nonzero(mask)
            left, top = int(columns.min()), int(rows.min())
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(category) + 1,
                    "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
                    "area": int(mask.sum()),
                    "bbox": [
                        left,
                        top,
                        int(columns.max()) + 1 - left,
                        int(rows.max()) + 1 - top,
                    ],
                    # A crowd is what COCO calls a region that is given by run lengths.
                    "iscrowd": 1,
                }
            )
    names = [{"id": i + 1, "name": name} for i, name in enumerate(source.pixel_classes)]
    described = {"description": f"Generated images of the shaping session {source.session}"}
    write_json(
        folder / "annotations.json",
        {"info": described, "images": images, "annotations": annotations, "categories": names},
    )
    return len(images)
