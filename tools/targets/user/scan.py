"""Scanning of a user's folders: pictures of classes, or images with pixel labels."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memory.errors import some
from prompts.user_vocabulary import plain, value_of
from tools.targets.splits import SPLIT_NAMES, split_from_name
from tools.targets.user.class_files import CLASS_FILES, COLOUR_FILES
from tools.targets.user.label_files import LABEL_FORMATS, LABEL_NAMES
from tools.targets.user.loading import Item
from tools.targets.user.names import (
    folders_in,
    is_hidden_name,
    is_system_name,
    match_labels,
    paths_in,
    roles_of,
)
from tools.targets.user.pictures import composed, is_picture
from tools.targets.user.refusals import describe_no_labels
from tools.targets.validation import ValidationReport, refusal

_FEW = 5
_MAX_FILES = 1_000_000
# Unsupported formats of labels and pictures.
_ARRAYS = (".npz", ".exr", ".pfm", ".mat", ".h5", ".hdf5", ".pt", ".dpt", ".pkl", ".raw", ".bin")
_UNREAD_PICTURES = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".raw", ".svg",
    ".tga", ".ico", ".psd",
)  # fmt: skip
_TABLE_SUFFIXES = (".csv", ".tsv", ".xls", ".xlsx", ".txt", ".json", ".yaml", ".yml", ".xml")
_DOCUMENTS = ("readme", "license", "licence", "notice")


@dataclass(frozen=True)
class Part:
    """A folder with its own layout: all data, or those of one split.

    Attributes:
        root: Folder of all data; names of images are relative to it.
        path: Folder of the part.
        files: All files below `path`.
        split: A value of `SPLIT_NAMES`, or None.
    """

    root: Path
    path: Path
    files: Sequence[Path]
    split: str | None = None

    def name(self, file: Path) -> str:
        """Return the name of a file in messages and as an image id."""
        return str(file.relative_to(self.root))


def files_below(root: Path, report: ValidationReport) -> list[Path]:
    """Return the sorted files below a folder, without files of systems and programs.

    Links are followed, except to a folder that contains them.

    Raises:
        DataError: Names are not in UTF-8, which journal and pages require, or there are more than
            a million files, as on a whole disk.
    """
    n_seen = 0
    files = []
    foreign = []
    pending = [(root, {root.resolve()})]
    while pending:
        folder, above = pending.pop()
        if not os.access(folder, os.R_OK | os.X_OK):
            report.warn("no-permission", _relative(folder, root))
        inside = paths_in(folder)
        n_seen += len(inside)
        if n_seen > _MAX_FILES:
            raise refusal("too-many-files", root=root, maximum=_MAX_FILES)
        for path in inside:
            name = str(path.relative_to(root))
            if is_system_name(path.name):
                if (
                    is_hidden_name(path.name)
                    and path.is_dir()
                    and any(map(is_picture, paths_in(path)))
                ):
                    report.warn("hidden-folder", name)
                continue
            if name != _relative(path, root):
                foreign.append(_relative(path, root))
            elif path.is_file():
                files.append(path)
            elif path.is_dir():
                if (real := path.resolve()) not in above:
                    pending.append((path, above | {real}))
            elif path.is_symlink():
                report.warn("broken-link", name)
    if foreign:
        raise refusal("not-utf8", root=root, n=len(foreign), names=some(sorted(foreign), _FEW))
    return sorted(files)


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)).encode("utf-8", "backslashreplace").decode()


def find_parts(root: Path, files: Sequence[Path]) -> list[Part]:
    """Return the folders with their own layout, with their splits: often the root alone."""
    folders = {folder.name: folder for folder in folders_in(root)}
    of_folder = {
        name: [f for f in files if f.is_relative_to(folder)] for name, folder in folders.items()
    }
    named = {name: split for name in folders if (split := split_from_name(name))}
    exact = [name for name in named if name.lower() in SPLIT_NAMES]
    # Several folders of one split, such as "test 1" and "test 2", may be classes.
    splits = list(named) if len(set(named.values())) == len(named) > 1 else exact
    if folders and len(splits) == len(folders):
        return [Part(root, root / name, of_folder[name], named[name]) for name in splits]
    if len(splits) > 1:
        others = sorted(folders.keys() - set(splits))
        raise refusal(
            "split-folders",
            root=root,
            splits=", ".join(splits),
            others=", ".join(others),
            known=", ".join(SPLIT_NAMES),
        )
    if len(folders) > 1 and all(roles_of(folders[name], of_folder[name]) for name in folders):
        return [Part(root, folder, of_folder[name]) for name, folder in folders.items()]
    return [Part(root, root, files)]


def scan_classes(
    part: Part,
    lists: Collection[Path],
    by_table: bool,
    words: dict[str, str],
    report: ValidationReport,
) -> list[Item]:
    """Return the pictures of class folders, perhaps with folders of splits in each of these.

    Args:
        part: Folder of the class folders.
        lists: Split lists, whose folders are not classes.
        by_table: Whether a table names classes; then pictures outside folders are also returned.
        words: The folders of other parts by the class that they are read as; updated.
        report: Collects what is left out.
    """
    by_class: dict[str, list[Path]] = {
        folder.name: []
        for folder in folders_in(part.path)
        if not any(file.is_relative_to(folder) for file in lists)
    }
    items = []
    inner: dict[Path, list[str]] = {}
    for file in part.files:
        *folders, _ = file.relative_to(part.path).parts
        if folders and _is_read(file, part.name(file), report):
            by_class.setdefault(folders[0], []).append(file)
            inner[file] = folders[1:]
        elif not folders and is_picture(file) and by_table:
            items.append(Item(part.name(file), file, split=part.split))
        elif not folders and is_picture(file):
            report.warn("no-class", part.name(file))
    splits = {file: SPLIT_NAMES.get(f[0].lower()) for file, f in inner.items() if f}
    if splits and len(splits) == len(inner) and all(splits.values()):
        names = sorted({folders[0] for folders in inner.values()})
        report.warn("split-lists", files=f"folders in each class, {', '.join(names)}")
    else:
        if splits:
            report.warn("folders-in-class", *map(part.name, splits))
        if splits and len(splits) == len(inner):
            names = sorted({folders[-1] for folders in inner.values()})
            report.warn("classes-deeper", names=some(names, _FEW))
        splits = {}
    for folder, files in by_class.items():
        class_name = plain(folder)
        if not class_name:
            report.error("class-folder-name", folder)
        if not files:
            report.error("class-folder-empty", folder)
        other = words.setdefault(value_of(folder), folder)
        if other != folder and (other in by_class or plain(other) != class_name):
            report.error("class-folder-alike", folder, other=other)
        items += [
            Item(part.name(file), file, class_name, part.split or splits.get(file))
            for file in files
        ]
    return items


def scan_images(
    part: Part, roles: Mapping[str, str], by_table: bool, report: ValidationReport
) -> list[Item]:
    """Return the images of a part with their pixel labels.

    Args:
        part: Folder of the images and their labels.
        roles: Content of its folders, as returned by `roles_of`.
        by_table: Whether a table names classes; then labels are optional.
        report: Collects what is left out, and labels that match no image.
    """
    for folder, role in roles.items():
        if folder not in ("images", *LABEL_NAMES.values()):
            report.warn("read-from", labels=LABEL_NAMES.get(role, role), folder=folder)
    by_role: dict[str, dict[str, list[Path]]] = {
        role: defaultdict(list) for role in ("images", *LABEL_NAMES)
    }
    unread = False
    for file in part.files:
        folder, *inside = file.relative_to(part.path).parts
        if not inside:
            if is_picture(file):
                report.warn("outside-images", file.name)
            continue
        role = roles.get(folder, "")
        is_label = role in LABEL_NAMES
        if not role:
            report.warn("unread-folder", part.name(file), folder=folder)
        elif is_label and file.suffix.lower() in _ARRAYS:
            unread = True
            files, form = LABEL_FORMATS[role]
            report.error(
                "label-format", part.name(file), files=files, suffix=file.suffix, form=form
            )
        elif (is_label and file.suffix.lower() == ".npy") or _is_read(
            file, part.name(file), report
        ):
            by_role[role][composed(str(Path(*inside).with_suffix("")))].append(file)
    images = by_role.pop("images")
    labels = {
        kind: _joined_labels(part, kind, files, images, report) for kind, files in by_role.items()
    }
    if not any(by_role.values()) and not unread and not by_table:
        (folder,) = (name for name, role in roles.items() if role == "images")
        where = part.name(part.path) if part.path != part.root else part.root.name
        values = describe_no_labels(part.path, part.files, part.path / folder)
        report.error("no-labels", where, subject="folders with", **values)
    if twice := [stem for stem, files in images.items() if len(files) > 1]:
        report.error("image-twice", *twice)
    items = []
    for stem, (file, *_) in images.items():
        first, *rest = Path(stem).parts
        items.append(
            Item(
                part.name(file),
                file,
                split=part.split or (SPLIT_NAMES.get(first.lower()) if rest else None),
                labels={kind: files[stem][0] for kind, files in labels.items() if stem in files},
            )
        )
    return items


def _joined_labels(
    part: Part,
    kind: str,
    labels: Mapping[str, list[Path]],
    images: Mapping[str, list[Path]],
    report: ValidationReport,
) -> Mapping[str, list[Path]]:
    """Return label files by the path of their image without suffix."""
    if labels and images and not labels.keys() & images.keys():
        labels = match_labels(kind, labels, images, report)
        if not labels.keys() & images.keys():
            label, image = (part.name(min(files.values())[0]) for files in (labels, images))
            report.error("label-names", f"{label}, {image}", kind=kind)
            return labels
    for stem, files in labels.items():
        if stem not in images:
            report.warn("label-without-image", part.name(files[0]), kind=kind)
        if len(files) > 1:
            report.error("label-twice", stem, kind=kind)
    return labels


def warn_unread_tables(
    part: Part, with_images: bool, table: Path | None, report: ValidationReport
) -> None:
    """Warn about tables and lists beside the folders of a part that are not read."""
    read = {table}
    if with_images:
        read |= {part.root / name for name in (*COLOUR_FILES, *CLASS_FILES)}
    names = "names of ids in masks from PATH/classes.txt" if with_images else "classes from folders"
    unread = [
        part.name(file)
        for file in part.files
        if file.parent in (part.root, part.path)
        and file not in read
        and file.suffix.lower() in _TABLE_SUFFIXES
        and not file.stem.lower().startswith(_DOCUMENTS)
    ]
    if unread:
        report.warn("unread-file", *unread, names=names)


def _is_read(file: Path, name: str, report: ValidationReport) -> bool:
    if is_picture(file):
        return True
    if file.suffix.lower() in _UNREAD_PICTURES:
        report.warn("unread-picture-format", name)
    else:
        report.warn("no-picture", name)
    return False
