"""The target `folder`: a user's own data, as class folders or as images with labels of pixels.

PATH/CLASS/*.png               class folders, or PATH/{train,val,test}/CLASS/*.png
PATH/images/*.jpg              with masks/*.png (ids), depth/*.png or .npy, normals/*.png of
                               the same names; also PATH/{train,val,test}/images/...
PATH/annotations/*.json        outlines in the form of COCO or LabelMe, their images anywhere below
PATH/train.txt, val.txt        names of the photographs of a split
PATH/attributes.csv            first column: file name; split, group, and class where no folder
                               says it; other columns: attributes
PATH/classes.txt, .json, .yaml names of the ids in masks
PATH/classes.csv               name,red,green,blue: names of the colours in masks

Other usual names of these folders are known too, as JPEGImages with SegmentationClass, and labels
that are named as their image but for a word, as x_mask.png.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from memory.errors import DataError
from tools.targets.splits import WORDS, split_word
from tools.targets.user.class_files import CLASS_FILES, COLOUR_FILES, class_file
from tools.targets.user.coco import coco_files, coco_items
from tools.targets.user.folder_names import (
    files_below,
    is_folder,
    labels_among,
    roles_of,
)
from tools.targets.user.labelme import labelme_files
from tools.targets.user.loading import Item
from tools.targets.user.options import options_of
from tools.targets.user.photos import Photos, cached, own_name, read_photos
from tools.targets.user.problems import Problems
from tools.targets.user.public_classes import public_classes
from tools.targets.user.refusals import (
    LAYOUTS,
    nothing_found,
    refuse_images_with_labels,
    refuse_no_classes,
    refuse_no_folder,
    refuse_other_kinds,
)
from tools.targets.user.scanning import scan_classes, scan_images
from tools.targets.user.split_lists import split_lists, with_lists
from tools.targets.user.table import TABLE, read_table, table_columns, table_file, with_table

_TABLE_SUFFIXES = (".csv", ".tsv", ".xls", ".xlsx", ".txt", ".json", ".yaml", ".yml", ".xml")
_DOCUMENTS = ("readme", "license", "licence", "notice")


def build(
    cache_dir: Path,
    path: str | None = None,
    name: str | None = None,
    task: str | None = None,
    size: int | str | Sequence[int] | None = None,
    void: int | Sequence[int] = 255,
    depth_scale: float = 256,
    flips: Sequence[str] = ("horizontal",),
    seed: int = 0,
) -> Photos:
    """Build the target from the folder `path`; see `options_of` and `Options` for the others.

    name: None for the folder's own with a digest of where it lies. What was read is kept under
    `cache_dir` until a file changes. Raises DataError that names and counts all that is wrong.
    """
    if not path:
        raise DataError("The target folder needs to know where: --target folder:PATH.")
    root = Path(path).expanduser().resolve()
    refuse_no_folder(root)
    found = Problems()
    files = files_below(root, found)
    refuse_other_kinds(root, files)
    options = options_of(task, size, void, depth_scale, flips, seed)
    name = name or own_name(root)
    stats = [(file, file.stat()) for file in files]
    key = [
        str(options),
        [[str(f.relative_to(root)), s.st_size, s.st_mtime_ns] for f, s in stats],
    ]

    def read() -> Photos:
        items, names = _scan(root, files, task, found)
        masks = [item.labels["segmentation"] for item in items if "segmentation" in item.labels]
        read_as = options.with_names(names, public_classes(masks))
        return read_photos(name, str(root), items, read_as, cache_dir, found)

    return cached(name, key, cache_dir, read, str(root))


def _scan(
    root: Path, files: Sequence[Path], task: str | None, found: Problems
) -> tuple[list[Item], Mapping[int, str] | None]:
    """List the photographs of either layout with all that is said of them."""
    table = table_file(root)
    rows = read_table(table, found) if table else {}
    lists = split_lists(root, files)
    files = [file for file in files if file not in lists]
    if task in (None, "segmentation") and not labels_among(root, files):
        annotated = coco_files(files) or labelme_files(root, files, found)
        outlined = coco_items(root, files, annotated, found)
        if outlined:
            items = with_lists(root, outlined[0], lists, found)
            return with_table(items, rows, found) if table else items, outlined[1]
    if task != "classification" and not roles_of(root, files):
        refuse_images_with_labels(root, files)
    parts = _parts(root, files)
    roles = [roles_of(part, [f for f in files if f.is_relative_to(part)]) for _, part in parts]
    layouts = [bool(own) for own in roles]
    if any(layouts) and not all(layouts):
        raise DataError(f"Some splits of {root} have a folder images/ and others do not. {LAYOUTS}")
    by_table = any(row.class_name for row in rows.values())
    items = []
    for (split, part), role_of in zip(parts, roles, strict=True):
        own = [file for file in files if file.is_relative_to(part)]
        if layouts[0]:
            items += scan_images(root, part, split, own, role_of, by_table, found)
        else:
            if not by_table and task != "classification":
                refuse_no_classes(root, part, own)
            items += scan_classes(root, part, split, own, lists, by_table, found)
        _note_tables(root, part, own, layouts[0], table, found)
    if not items:
        found.stop(str(root))
        also = "".join(f"\n- (also) {line}" for line in found.said())
        columns = table_columns(table) if table else []
        raise DataError(nothing_found(root, files, columns) + also)
    labelled = any(item.labels for item in items)
    if layouts[0] and not labelled and not by_table:
        found.stop(str(root))
    items = with_lists(root, items, lists, found)
    if table:
        items = with_table(items, rows, found)
    if not labelled:
        for item in items:
            if item.class_name is None:
                found.note("pictures without a class, left out", item.name)
        items = [item for item in items if item.class_name is not None]
    return items, class_file(root) if layouts[0] else None


def _parts(root: Path, files: Sequence[Path]) -> list[tuple[str | None, Path]]:
    """Return the folders that have a layout each, with their splits: often the root alone."""
    folders = {child.name: child for child in root.iterdir() if is_folder(child)}
    words = {name: word for name in sorted(folders) if (word := split_word(name))}
    exact = [name for name in words if name.lower() in WORDS]
    # Several folders of one split, as "test 1" and "test 2", may be classes.
    splits = words if len(set(words.values())) == len(words) > 1 else exact
    if folders and len(splits) == len(folders):
        return [(words[name], root / name) for name in splits]
    if len(splits) > 1:
        others = sorted(folders.keys() - set(splits))
        raise DataError(
            f"Of the folders in {root}, {', '.join(splits)} are named like splits and "
            f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} not. Known splits are "
            f"{', '.join(WORDS)}: rename the others, or take them out."
        )
    if len(folders) > 1 and all(
        roles_of(folder, [f for f in files if f.is_relative_to(folder)])
        for folder in folders.values()
    ):
        return [(None, folders[name]) for name in sorted(folders)]
    return [(None, root)]


def _note_tables(
    root: Path,
    part: Path,
    files: Sequence[Path],
    with_images: bool,
    table: Path | None,
    found: Problems,
) -> None:
    """Note tables and lists beside the folders of a part that lie where nothing reads them."""
    known = {root / name for name in (*COLOUR_FILES, *CLASS_FILES)}
    read = {table} | (known if with_images else set())
    names = "names of ids in masks from PATH/classes.txt" if with_images else "classes from folders"
    for file in files:
        if (
            file.parent in (root, part)
            and file not in read
            and file.suffix.lower() in _TABLE_SUFFIXES
            and not file.stem.lower().startswith(_DOCUMENTS)
        ):
            found.note(
                f"files that are not read (attributes come from PATH/{TABLE}, {names})",
                str(file.relative_to(root)),
            )
