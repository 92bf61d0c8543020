"""The target `hf`: a user's own data as the library `datasets` has them.

PATH is a folder that `save_to_disk` wrote, a parquet file or a folder of them, a folder for
`imagefolder`, or a name on the Hugging Face Hub. Needs the extra `hf`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from memory.errors import DataError, unknown
from memory.yaml_text import parse_yaml
from prompts.own_words import plain, value_of
from tools.targets.splits import WORDS
from tools.targets.user.class_files import named
from tools.targets.user.loading import Item
from tools.targets.user.options import options_of
from tools.targets.user.photos import Photos, cached, own_name, read_photos
from tools.targets.user.pictures import Content, Source, Unusable
from tools.targets.user.problems import Problems

# Columns by what they hold, the usual names first.
USUAL = {
    "image": ("image", "img", "picture", "photo"),
    "label": ("label", "labels", "class", "category", "cls"),
    "segmentation": ("segmentation", "mask", "masks", "annotation", "semantic_segmentation"),
    "depth": ("depth", "depth_map"),
    "normals": ("normals", "normal"),
    "attributes": ("attributes",),
    "split": ("split",),
    "group": ("group",),
}
_HUB_NAME = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?", re.ASCII)
_HUB_TIMEOUT_S = 10.0
_LOOKED_AT = 1000
# What rows are called of parquet files that name no split.
_UNNAMED = "data"
_PIXELS = ("segmentation", "depth", "normals")

Columns = Mapping[str, Any]


def build(
    cache_dir: Path,
    path: str | None = None,
    name: str | None = None,
    columns: Columns | str | None = None,
    config: str | None = None,
    classes: Sequence[str] | Mapping[Any, Any] | None = None,
    task: str | None = None,
    size: int | str | Sequence[int] | None = None,
    void: int | Sequence[int] = 255,
    depth_scale: float = 256,
    flips: Sequence[str] = ("horizontal",),
    seed: int = 0,
) -> Photos:
    """Build the target.

    columns: the names of the columns that hold image, label, segmentation, depth, normals, split
    and group, and a list of those that are attributes; as a mapping, or as a YAML file of one.
    What it leaves out is looked for under usual names. config: of a data set of several; classes:
    names of the ids in masks; see `options_of` and `Options` for the others. Raises DataError.
    """
    if not path:
        raise DataError("The target hf needs to know where: --target hf:PATH, or hf:NAME.")
    if util.find_spec("datasets") is None:
        raise DataError(
            "The target hf needs the library datasets, which is not installed. Add it with: "
            "pip install 'feedback-shaping[hf]'"
        )
    options = options_of(task, size, void, depth_scale, flips, seed)
    if classes:
        options = options.with_names(named(classes))
    wanted = _read_columns(columns)
    parts = _load(path, config, cache_dir)
    name = name or own_name(Path(path))
    key = [
        str(options),
        {kind: wanted[kind] for kind in sorted(wanted)},
        {word: part._fingerprint for word, part in sorted(parts.items())},
    ]

    def read() -> Photos:
        found = Problems()
        items = [item for word, part in parts.items() for item in _items(word, part, wanted, found)]
        return read_photos(name, path, items, options, cache_dir, found)

    return cached(name, key, cache_dir, read, path)


def _read_columns(columns: Columns | str | None) -> Columns:
    if isinstance(columns, str):
        try:
            columns = parse_yaml(Path(columns).expanduser().read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(f"The columns cannot be read from {columns}: {error}.") from error
    if columns is not None and not isinstance(columns, Mapping):
        raise DataError(f"columns must map {', '.join(USUAL)} to names, not {columns!r}.")
    for kind in columns or {}:
        if kind not in USUAL:
            raise DataError(unknown("kind of column", str(kind), USUAL))
    return columns or {}


def _load(path: str, config: str | None, cache_dir: Path) -> dict[str, Any]:
    """Return the parts of a data set by the names of their splits."""
    import datasets

    datasets.disable_progress_bars()
    where = Path(path).expanduser()
    kept = str(cache_dir / "datasets")
    try:
        if not where.exists():
            with _hub(path, where):
                loaded = datasets.load_dataset(path, config)
        elif (where / "dataset_dict.json").is_file() or (where / "state.json").is_file():
            loaded = datasets.load_from_disk(str(where))
        elif files := _parquet(where):
            loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=kept)
        else:
            loaded = datasets.load_dataset("imagefolder", data_dir=str(where), cache_dir=kept)
    except Exception as error:  # datasets raises many types, those of its hub client among them
        raise DataError(
            f"The library datasets cannot load {path!r}: {' '.join(str(error).split())[:300]}. "
            "Give a folder of save_to_disk, parquet files, a folder for imagefolder, or the name "
            "of a data set; without a network only one that is in its cache."
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"": loaded}


@contextmanager
def _hub(path: str, where: Path) -> Iterator[None]:
    """Let a name be looked for on the hub; where it cannot be asked, in the cache alone.

    Raises FileNotFoundError for what is no name of a data set, or none that the hub knows.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    near = _near(where)
    if not _HUB_NAME.fullmatch(path):
        raise FileNotFoundError(f"there is no folder or file {where}{near}")
    offline = constants.HF_HUB_OFFLINE
    try:
        if not offline:
            # Asked once and shortly: the library itself tries again for half a minute.
            HfApi().dataset_info(path, timeout=_HUB_TIMEOUT_S)
    except RepositoryNotFoundError:
        raise FileNotFoundError(
            f"there is no folder or file {where}, and no such data set on the hub{near}"
        ) from None
    except HfHubHTTPError:
        pass  # it answers; what is wrong is better said by the library
    except Exception:  # of its client, which has many types for a hub that is not reached
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    except ConnectionError:
        raise FileNotFoundError(
            f"there is no folder or file {where}, the hub cannot be reached, and its cache has no "
            f"{path}{near}"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline


def _near(where: Path) -> str:
    """Return what lies beside a path and is called nearly so, as an end of a sentence."""
    beside = where.parent if where.parent.is_dir() else Path()
    names = [f.name for f in beside.iterdir() if f.is_dir() or f.suffix == ".parquet"]
    found = difflib.get_close_matches(where.name, names, n=3, cutoff=0.6)
    return f" (near: {', '.join(str(where.parent / name) for name in found)})" if found else ""


def _parquet(where: Path) -> dict[str, list[str]]:
    """Return parquet files by split, if their names begin with one as those of the hub do."""
    files = [where] if where.suffix == ".parquet" else sorted(where.rglob("*.parquet"))
    parts: dict[str, list[str]] = {}
    for file in files:
        word = file.stem.split("-")[0].lower()
        parts.setdefault(word if word in WORDS else _UNNAMED, []).append(str(file))
    return parts


def _items(word: str, part: Any, wanted: Columns, found: Problems) -> Iterator[Item]:
    import datasets

    features = part.features
    columns = {kind: _column(kind, wanted, features) for kind in USUAL if kind != "attributes"}
    image = columns["image"] or _first_picture(features)
    if image is None:
        raise DataError(f"No column holds pictures; there are: {', '.join(features)}.")
    if getattr(features[image], "dtype", None) in ("string", "large_string"):
        raise DataError(
            f"The column {image!r} holds text, no pictures. If these are paths, save the data set "
            f"again after cast_column({image!r}, datasets.Image()); or name another column by "
            "--set 'target.options.columns={image: COLUMN}'."
        )
    label = columns["label"]
    if label and isinstance(features[label], datasets.Image):
        columns["segmentation"], label = columns["segmentation"] or label, None
    pixels = {kind: column for kind in _PIXELS if (column := columns[kind])}
    for column in (image, *pixels.values()):
        if isinstance(features[column], datasets.Image):
            part = part.cast_column(column, datasets.Image(decode=False))
    plain_part = part.remove_columns([image, *pixels.values()])
    if not label and not pixels:
        others = [name for name in features if name != image and not name.startswith("__")]
        raise DataError(
            f"No column is known to hold labels; there are: {', '.join(features)}. Name it, e.g. "
            f"--set 'target.options.columns={{label: {_likely(part, others)}}}', or segmentation, "
            "depth, normals; columns that are to be attributes as attributes: [COLUMN]."
        )
    titles = _titles(features[label], found) if label else None
    said = wanted.get("attributes") or [c for c in USUAL["attributes"] if c in features]
    for column in said:
        if column not in features:
            raise DataError(unknown("column", str(column), features))
    used = {image, *pixels.values(), columns["split"], columns["group"], *said}
    _note_unused([c for c in features if c not in (used if pixels else used | {label})], found)
    for row, values in enumerate(_rows(plain_part, len(part))):
        name = f"{word or 'row'}/{row:06d}"
        class_name = None
        if label and not pixels:
            class_name = titles(values[label]) if titles else None
            if not class_name:
                found.note("rows without a label, left out", name)
                continue
        labels: dict[str, Source] = {}
        for kind, column in pixels.items():
            if part[row][column] is not None:
                labels[kind] = partial(_picture, part, row, column)
        split = str(values.get(columns["split"] or "", "") or word).lower()
        if split and split not in (*WORDS, _UNNAMED):
            found.note("splits of unknown names, whose rows are dealt to all splits", split)
        group = values.get(columns["group"] or "")
        yield Item(
            name,
            partial(_picture, part, row, image),
            class_name,
            WORDS.get(split),
            None if group is None else str(group),
            _attributes(values, said, features),
            labels,
        )


def _likely(part: Any, columns: Sequence[str]) -> str:
    """Return the column that looks most like labels: the first of few words that come again."""
    for column in columns:
        values = part[:_LOOKED_AT][column]
        if all(isinstance(v, str | int) for v in values) and 1 < len(set(values)) < len(values) / 2:
            return column
    return "COLUMN"


def _note_unused(columns: Sequence[str], found: Problems) -> None:
    """Note columns that nothing reads, once for all parts of a data set."""
    what = (
        "columns that are not read; to use them: "
        "--set 'target.options.columns={attributes: [COLUMN, ...]}'"
    )
    for column in columns:
        if column not in found.notes.get(what, ()):
            found.note(what, column)


def _rows(part: Any, n: int) -> Iterator[Mapping[str, Any]]:
    """Yield the rows without their pictures; a data set of pictures alone has no columns left."""
    yield from part if part.column_names else ({} for _ in range(n))


def _column(kind: str, wanted: Columns, features: Mapping[str, Any]) -> str | None:
    if kind in wanted:
        column = str(wanted[kind])
        if column not in features:
            raise DataError(unknown("column", column, features))
        return column
    return next((name for name in USUAL[kind] if name in features), None)


def _first_picture(features: Mapping[str, Any]) -> str | None:
    import datasets

    return next((n for n, kind in features.items() if isinstance(kind, datasets.Image)), None)


def _titles(feature: Any, found: Problems) -> Callable[[Any], str]:
    """Return what turns a value of the label's column into the name of a class, "" for none."""
    names = getattr(feature, "names", None)
    if names:
        words: dict[str, str] = {}
        for title in names:
            if not plain(title):
                found.fault("classes without a letter or digit in their name: rename them", title)
            if words.setdefault(value_of(title), title) != title:
                found.fault(f"classes that read like {words[value_of(title)]!r}", title)

    def title_of(value: Any) -> str:
        if value is None or (names and not 0 <= value < len(names)):
            return ""
        return plain(names[value] if names else str(value))

    return title_of


def _attributes(
    values: Mapping[str, Any], said: Sequence[str], features: Mapping[str, Any]
) -> dict[str, str]:
    """Return the words of the attribute columns; JSON, or a mapping, holds several."""
    result: dict[str, str] = {}
    for column in said:
        value = values[column]
        if isinstance(value, str) and value.startswith("{"):
            with suppress(ValueError):  # words that only begin like JSON
                value = json.loads(value)
        if isinstance(value, Mapping):
            result |= {str(k): str(v) for k, v in value.items() if v is not None}
        elif value is not None:
            names = getattr(features[column], "names", None)
            result[column] = names[value] if names and value >= 0 else str(value)
    return result


def _picture(part: Any, row: int, column: str) -> Content:
    """Fetch one cell: the file of a picture, its bytes, or an array."""
    value = part[row][column]
    if isinstance(value, Mapping):
        content: Content | None = value["bytes"] or (value["path"] and Path(value["path"]))
        value = content or None
    if value is None:
        raise Unusable("that are missing")
    if isinstance(value, bytes | Path):
        return value
    return np.asarray(value)
