"""The target `hf`: a user's own data in formats of the library `datasets`.

PATH is a folder written by `save_to_disk`, a parquet file or a folder of them, a folder for
`imagefolder`, or a name on the Hugging Face Hub with a pinned commit, which is downloaded only if
allowed. Pictures that the data reference by path are read only below the data's folder. Requires
the extra `hf`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from memory.errors import DataError, unknown
from memory.yaml_text import parse_yaml
from prompts.user_vocabulary import is_blank, plain, value_of
from tools.targets.splits import SPLIT_NAMES
from tools.targets.user.class_cells import ClassCells
from tools.targets.user.class_files import names_by_id
from tools.targets.user.dataset import UserDataset, cached, default_name, read_dataset
from tools.targets.user.label_files import LABEL_NAMES
from tools.targets.user.loading import Item, ReadOptions
from tools.targets.user.masks import ClassNames
from tools.targets.user.pictures import Content, UnreadableImageError
from tools.targets.user.refusals import near_names
from tools.targets.validation import ValidationReport, refusal

# Common column names by kind of content, in order of precedence.
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
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_TIMEOUT_S = 10.0
_INSPECTED = 1000
# Part name of parquet files that name no split.
_UNNAMED = "data"

Columns = Mapping[str, Any]


class HfOptions(ReadOptions):
    """`target.options` of the target `hf`.

    Attributes:
        columns: Names of the columns with image, label, segmentation, depth, normals, split and
            group, and a list of attribute columns; or the path of a YAML file with these. Missing
            entries are searched under common names.
        config: Name of the configuration of a data set that has several.
        classes: Class names of the ids in masks.
        revision: Commit of a data set on the hub, 40 hex digits.
        allow_network: Whether to download a data set of the hub; otherwise it must have been
            downloaded before at this revision.
    """

    columns: Mapping[str, Any] | str | None = None
    config: str | None = None
    classes: Sequence[Any] | Mapping[Any, Any] | None = None
    revision: str | None = None
    allow_network: bool = False


def build(
    cache_dir: Path, path: str | None = None, name: str | None = None, **options: object
) -> UserDataset:
    """Build the target.

    Args:
        cache_dir: Folder for the data read, which are cached until the data set changes.
        path: Path or name of the data set, see the module.
        name: Name of the target; None: the last part of the path with a digest of the path.
        options: See `HfOptions`.

    Raises:
        DataError: The data cannot be used; the message lists and counts all problems.
        SettingsError: An option does not exist.
    """
    if not path:
        raise refusal("no-path", target="hf")
    if util.find_spec("datasets") is None:
        raise refusal("hf-not-installed")
    given = HfOptions.parse("hf", options)
    names = ClassNames(names_by_id(given.classes) if given.classes else None)
    columns = _read_columns(given.columns)
    parts, roots = _load(path, given, cache_dir)
    name = name or default_name(Path(path))
    key = [
        given.model_dump(mode="json", exclude={"columns", "revision", "allow_network"}),
        {kind: columns[kind] for kind in sorted(columns)},
        {split: part._fingerprint for split, part in sorted(parts.items())},
    ]

    def read() -> UserDataset:
        report = ValidationReport()
        class_cells = ClassCells()
        layouts = {split: _layout(part, columns) for split, part in parts.items()}
        if unread := dict.fromkeys(c for layout in layouts.values() for c in layout.unread):
            report.warn("hf-unread-columns", *unread)
        items = [
            item
            for split, layout in layouts.items()
            for item in _items(split, parts[split], layout, roots, class_cells, report)
        ]
        class_cells.check(report)
        return read_dataset(name, path, items, given, names, cache_dir, report)

    return cached(name, key, cache_dir, read, path)


def _read_columns(columns: Columns | str | None) -> Columns:
    if isinstance(columns, str):
        try:
            columns = parse_yaml(Path(columns).expanduser().read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise refusal("hf-columns-file", path=columns, error=error) from error
    if columns is not None and not isinstance(columns, Mapping):
        raise refusal("hf-columns", known=", ".join(USUAL), value=columns)
    for kind in columns or {}:
        if kind not in USUAL:
            raise DataError(unknown("kind of column", str(kind), USUAL))
    return columns or {}


def _load(path: str, given: HfOptions, cache_dir: Path) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Return the parts of a data set by split name, and the folders that may hold its files."""
    import datasets
    from huggingface_hub import constants

    datasets.disable_progress_bars()
    local = Path(path).expanduser().resolve()
    kept = str(cache_dir / "datasets")
    root = local.parent if local.is_file() else local
    try:
        if not local.exists():
            # One cache per commit: offline, the library uses the latest entry of its cache.
            kept = str(cache_dir / "datasets" / "hub" / _commit(path, local, given.revision))
            with _hub(path, local, given):
                loaded = datasets.load_dataset(
                    path, given.config, revision=given.revision, cache_dir=kept
                )
            # Folder in which the hub's client stores the files of a data set.
            root = Path(constants.HF_HUB_CACHE, f"datasets--{path.replace('/', '--')}").resolve()
        elif (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            loaded = datasets.load_from_disk(str(local))
        elif files := _parquet_files(local):
            loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=kept)
        else:
            loaded = datasets.load_dataset("imagefolder", data_dir=str(local), cache_dir=kept)
    except Exception as error:  # datasets raises many types, those of its hub client among them
        reason = " ".join(str(error).split())[:600]
        raise refusal("hf-load", path=path, error=reason) from error
    parts = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    return parts, (root, Path(kept).resolve())


def _missing(local: Path, where: str = "") -> FileNotFoundError:
    folder = local.parent if local.parent.is_dir() else Path()
    beside = [f for f in folder.iterdir() if f.is_dir() or f.suffix == ".parquet"]
    return FileNotFoundError(
        f"there is no folder or file {local}{near_names(local, beside)}{where}"
    )


def _commit(path: str, local: Path, revision: str | None) -> str:
    """Return the pinned commit of a data set on the hub; raises FileNotFoundError without one."""
    if not _HUB_NAME.fullmatch(path):
        raise _missing(local)
    if revision is None or not _COMMIT.fullmatch(revision):
        raise _missing(
            local,
            "; as the name of a data set on the hub it needs target.options.revision: the 40 "
            "digits of a commit, so that the data stay the same; and "
            f"target.options.allow_network=true to download it. Given: {revision!r}",
        )
    return revision


@contextmanager
def _hub(path: str, local: Path, given: HfOptions) -> Iterator[None]:
    """Allow loading from the hub; if forbidden or unreachable, from the cache only.

    Raises:
        FileNotFoundError: The data set is neither on the hub nor in the cache.
    """
    from datasets import config
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    offline = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    where = (
        f"the hub cannot be reached, and the cache has no {path}"
        if given.allow_network
        else f"the cache has no {path} of this revision. To download it from the hub: "
        "target.options.allow_network=true"
    )
    reached = False
    try:
        if given.allow_network and not any(offline):
            # A single request with a short timeout: the library itself retries for half a minute.
            HfApi().dataset_info(path, revision=given.revision, timeout=_HUB_TIMEOUT_S)
            reached = True
    except RepositoryNotFoundError:
        raise _missing(local, ", and no such data set on the hub") from None
    except HfHubHTTPError:
        reached = True  # reachable; the library reports the problem better
    except Exception:  # the client raises many types for an unreachable hub
        pass
    if not reached:
        constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    except ConnectionError:
        raise _missing(local, f", and {where}") from None
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = offline


def _parquet_files(local: Path) -> dict[str, list[str]]:
    """Return parquet files by split, where names begin with one as on the hub."""
    files = [local] if local.suffix == ".parquet" else sorted(local.rglob("*.parquet"))
    parts: dict[str, list[str]] = {}
    for file in files:
        split = file.stem.split("-")[0].lower()
        parts.setdefault(split if split in SPLIT_NAMES else _UNNAMED, []).append(str(file))
    return parts


class _Layout(NamedTuple):
    """Columns of a data set by content; split, group, label: None if there is none."""

    image: str
    label: str | None
    pixels: Mapping[str, str]
    split: str | None
    group: str | None
    attributes: Sequence[str]
    unread: Sequence[str]


def _layout(part: Any, wanted: Columns) -> _Layout:
    """Find the columns, given by the user or by common names; raises DataError without images."""
    import datasets

    features = part.features
    for columns in wanted.values():
        for column in columns if isinstance(columns, list | tuple) else [columns]:
            if column not in features:
                raise DataError(unknown("column", str(column), features))
    column_of = {
        kind: wanted.get(kind) or next((name for name in names if name in features), None)
        for kind, names in USUAL.items()
    }
    pictures = [name for name in features if isinstance(features[name], datasets.Image)]
    image = column_of["image"] or next(iter(pictures), None)
    if image is None:
        raise refusal("hf-no-pictures", columns=", ".join(features))
    if getattr(features[image], "dtype", None) in ("string", "large_string"):
        raise refusal("hf-paths", column=image)
    label = column_of["label"]
    if label in pictures:
        column_of["segmentation"], label = column_of["segmentation"] or label, None
    pixels = {kind: column for kind in LABEL_NAMES if (column := column_of[kind])}
    if not label and not pixels:
        others = [name for name in features if name != image and not name.startswith("__")]
        likely = _likely_label(_undecoded(part), others)
        raise refusal("hf-no-labels", columns=", ".join(features), likely=likely)
    attributes = wanted.get("attributes") or [c for c in USUAL["attributes"] if c in features]
    attributes = [attributes] if isinstance(attributes, str) else attributes
    split, group = column_of["split"], column_of["group"]
    read = {image, *pixels.values(), split, group, *attributes}
    unread = [c for c in features if c not in read and (pixels or c != label)]
    return _Layout(image, label, pixels, split, group, attributes, unread)


def _undecoded(part: Any) -> Any:
    """Return a part that does not decode pictures on reading, which would open any path."""
    import datasets

    for column, feature in part.features.items():
        if isinstance(feature, datasets.Image):
            part = part.cast_column(column, datasets.Image(decode=False))
    return part


def _items(
    part_name: str,
    part: Any,
    layout: _Layout,
    roots: Sequence[Path],
    class_cells: ClassCells,
    report: ValidationReport,
) -> Iterator[Item]:
    """Yield the rows of a part of a data set.

    Args:
        part_name: Name of its split.
        part: A `datasets.Dataset`.
        layout: Columns of the part.
        roots: Folders that may hold its files.
        class_cells: Reads classes given as text instead of an index into a list of names.
        report: Collects problems of rows.
    """
    features, label, pixels = part.features, layout.label, layout.pixels
    class_names = _names_of(features[label]) if label else ()
    class_cell_of = _class_cells(class_names, report) if label and not pixels else None
    part = _undecoded(part)
    plain_part = part.remove_columns([layout.image, *pixels.values()])
    # A data set of pictures alone has no other columns.
    rows = plain_part if plain_part.column_names else ({} for _ in range(len(part)))
    for row, values in enumerate(rows):
        name = f"{part_name or 'row'}/{row:06d}"
        class_name = None
        if class_cell_of:
            try:
                cell = class_cell_of(values[label])
            except ValueError as error:
                report.error("hf-label", name, error=error)
                continue
            class_name = plain(cell) if class_names else class_cells.read(cell)
            if not class_name:
                report.warn("hf-no-label", name)
                continue
        split = (_cell(values.get(layout.split or "")) or part_name).lower()
        if split and split not in (*SPLIT_NAMES, _UNNAMED):
            report.warn("hf-unknown-split", split)
        yield Item(
            name,
            partial(_content, part, row, layout.image, roots),
            class_name,
            SPLIT_NAMES.get(split),
            _cell(values.get(layout.group or "")) or None,
            _attributes(values, layout.attributes, features),
            {
                kind: partial(_content, part, row, column, roots)
                for kind, column in pixels.items()
                if part[row][column] is not None
            },
        )


def _likely_label(part: Any, columns: Sequence[str]) -> str:
    """Return the most likely column of labels: the first with few distinct values."""
    for column in columns:
        values = part[:_INSPECTED][column]
        if all(isinstance(v, str | int) for v in values) and 1 < len(set(values)) < len(values) / 2:
            return column
    return "COLUMN"


def _cell(value: Any) -> str:
    """Return a value as text, "" if unknown."""
    # Integer columns with missing values contain floats.
    whole = isinstance(value, float) and value.is_integer()
    text = "" if value is None else str(int(value) if whole else value)
    return "" if is_blank(text) else text


def _names_of(feature: Any) -> Sequence[str]:
    """Return the class names of a column or of a column of lists; () without names."""
    return getattr(getattr(feature, "feature", feature), "names", None) or ()


def _class_cells(names: Sequence[str], report: ValidationReport) -> Callable[[Any], str]:
    """Return a function that maps a value of the label column to a class as text, "" for none.

    The function raises ValueError for several classes of one picture, and for invalid types.
    """
    first: dict[str, str] = {}
    for title in names:
        if not plain(title):
            report.error("hf-class-name", title)
        if first.setdefault(value_of(title), title) != title:
            report.error("hf-class-alike", title, other=first[value_of(title)])

    def class_cell_of(value: Any) -> str:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            if len(value) > 1:
                raise ValueError("several classes for one image")
            value = value[0] if value else None
        if names and isinstance(value, int):
            return names[value] if 0 <= value < len(names) else ""
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"a value that is no class ({type(value).__name__})")
        return _cell(value)

    return class_cell_of


def _attributes(
    values: Mapping[str, Any], columns: Sequence[str], features: Mapping[str, Any]
) -> dict[str, str]:
    """Return the attributes of a row; a column of JSON or mappings contains several."""
    result: dict[str, str] = {}
    for column in columns:
        value = values[column]
        if isinstance(value, str) and value.startswith("{"):
            with suppress(ValueError):  # text that only begins like JSON
                value = json.loads(value)
        if isinstance(value, Mapping):
            result |= {str(k): str(v) for k, v in value.items() if v is not None}
        elif value is not None:
            names = getattr(features[column], "names", None)
            result[column] = names[value] if names and value >= 0 else str(value)
    return result


def _content(part: Any, row: int, column: str, roots: Sequence[Path]) -> Content:
    """Return the content of a cell: a picture file below `roots`, bytes, or an array."""
    value = part[row][column]
    if isinstance(value, Mapping):
        path = value.get("path")
        value = value.get("bytes") or (_file_below(roots, path) if path else None)
    if value is None:
        raise UnreadableImageError("that are missing")
    return value if isinstance(value, bytes | Path) else np.asarray(value)


def _file_below(roots: Sequence[Path], path: object) -> Path:
    """Return the file that a cell references.

    Raises:
        UnreadableImageError: It is no regular file, or is outside `roots`, also by symbolic link.
    """
    try:
        file = Path(roots[0], str(path)).resolve()
        if any(file.is_relative_to(root) for root in roots) and file.is_file():
            return file
    except (OSError, ValueError, RuntimeError):
        pass
    raise UnreadableImageError(
        f"whose path names no regular file below {roots[0]}: move the files there, or save the "
        "data set with the pictures in it"
    )
