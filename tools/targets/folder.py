"""The target `folder`: a user's own data, as class folders or as images with pixel labels.

PATH/CLASS/*.png               class folders, or PATH/{train,val,test}/CLASS/*.png
PATH/images/*.jpg              with masks/*.png (ids), depth/*.png or .npy, normals/*.png of
                               the same names; also PATH/{train,val,test}/images/...
PATH/annotations/*.json        outlines in COCO or LabelMe format, with images anywhere below
PATH/train.txt, val.txt        names of the photographs of a split
PATH/attributes.csv            first column: file name; split, group, and class where no folder
                               gives it; other columns: attributes
PATH/classes.txt, .json, .yaml names of the ids in masks
PATH/classes.csv               name,red,green,blue: names of the colours in masks

Other common names of these folders are recognised, such as JPEGImages with SegmentationClass, and
label files whose names differ from their image's by a word, such as x_mask.png.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from memory.errors import DataError
from tools.targets.user import names, refusals, scan, tables
from tools.targets.user.class_files import read_class_file
from tools.targets.user.dataset import UserDataset, cached, default_name, read_dataset
from tools.targets.user.loading import Item, ReadOptions
from tools.targets.user.masks import ClassNames, public_classes
from tools.targets.user.outlines import outlined_items
from tools.targets.validation import ValidationReport, refusal


def build(
    cache_dir: Path, path: str | None = None, name: str | None = None, **options: object
) -> UserDataset:
    """Build the target.

    Args:
        cache_dir: Folder for the data read, which are cached until a file changes.
        path: Folder of the data.
        name: Name of the target; None: the folder's name with a digest of its path.
        options: See `ReadOptions`.

    Raises:
        DataError: The data cannot be used; the message lists and counts all problems.
        SettingsError: An option does not exist.
    """
    if not path:
        raise refusal("no-path", target="folder")
    read_options = ReadOptions.parse("folder", options)
    root = Path(path).expanduser().resolve()
    refusals.refuse_no_folder(root)
    refusals.refuse_home_inside(root, cache_dir.resolve().parent)
    report = ValidationReport()
    files = scan.files_below(root, report)
    refusals.refuse_other_targets(root, files)
    name = name or default_name(root)
    stats = [(str(file.relative_to(root)), file.stat()) for file in files]
    key = [
        read_options.model_dump(mode="json"),
        [[file, s.st_size, s.st_mtime_ns] for file, s in stats],
    ]

    def read() -> UserDataset:
        items, class_names = _scan(root, files, read_options.task, report)
        masks = [item.labels["segmentation"] for item in items if "segmentation" in item.labels]
        classes = ClassNames(class_names, public_classes(masks))
        return read_dataset(name, str(root), items, read_options, classes, cache_dir, report)

    return cached(name, key, cache_dir, read, str(root))


def _scan(
    root: Path, files: Sequence[Path], task: str | None, report: ValidationReport
) -> tuple[list[Item], Mapping[int, str] | None]:
    """List the photographs of any supported layout with their metadata, and class names by id."""
    table = tables.find_table(root)
    rows = tables.read_table(table, report) if table else {}
    lists = tables.find_split_lists(root, files)
    files = [file for file in files if file not in lists]
    if task in (None, "segmentation") and not names.labels_among(root, files):
        outlined = outlined_items(root, files, report)
        if outlined:
            items = tables.join_split_lists(root, outlined[0], lists, report)
            return tables.join_table(items, rows, report) if table else items, outlined[1]
    by_table = any(row.class_name for row in rows.values())
    if task != "classification" and not names.roles_of(root, files):
        refusals.refuse_folder_pairs(root, files)
        if not by_table:
            refusals.refuse_mask_folders(root, files)
    parts = scan.find_parts(root, files)
    roles = [names.roles_of(part.path, part.files) for part in parts]
    with_images = any(roles)
    if with_images and not all(roles):
        raise refusal("mixed-layouts", root=root)
    items = []
    words: dict[str, str] = {}
    for part, roles_in_part in zip(parts, roles, strict=True):
        if with_images:
            items += scan.scan_images(part, roles_in_part, by_table, report)
        else:
            if not by_table and task != "classification":
                if part.path != root:  # checked above
                    refusals.refuse_mask_folders(part.path, part.files)
                refusals.refuse_no_classes(part.path, part.files)
            items += scan.scan_classes(part, lists, by_table, words, report)
        scan.warn_unread_tables(part, with_images, table, report)
    labelled = any(item.labels for item in items)
    if not items or (with_images and not labelled and not by_table):
        report.raise_errors(str(root))
    if not items:
        columns = tables.table_columns(table) if table else []
        also = [f"(also) {line}" for line in report.summary()]
        raise DataError("\n- ".join([str(refusals.nothing_found(root, files, columns)), *also]))
    items = tables.join_split_lists(root, items, lists, report)
    if table:
        items = tables.join_table(items, rows, report)
    if not labelled:
        if unclassed := [item.name for item in items if item.class_name is None]:
            report.warn("no-class-in-table", *unclassed)
        items = [item for item in items if item.class_name is not None]
    return items, read_class_file(root) if with_images else None
