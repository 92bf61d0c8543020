"""Errors for data in unsupported layouts, with a diagnosis and advice."""

from __future__ import annotations

import difflib
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from memory.errors import DataError, some
from tools.targets.splits import split_from_name
from tools.targets.user import names, pictures
from tools.targets.user.class_files import COLOUR_FILES
from tools.targets.user.names import IMAGE_FOLDERS, folders_in
from tools.targets.user.pictures import is_picture
from tools.targets.validation import refusal, text

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".xz")
# Suffixes of files in which other programs store boxes and outlines.
_SHAPES = (".json", ".xml", ".txt")
_COCO = re.compile(r"annotations/|.*/_?(?:annotations|instances)", re.IGNORECASE)
_OF_DATASETS = ("dataset_dict.json", "*.arrow", "metadata.jsonl", "*/metadata.jsonl")
_FEW = 5
# Distinction of masks and photographs: most folders examined, pictures sampled per folder and
# their size; most colours of a mask, and fewest of a photograph.
_FEW_FOLDERS, _N_SAMPLED, _SAMPLE_PX = 12, 5, 256
_MASK_COLOURS, _PHOTOGRAPH_COLOURS = 40, 120
_MANY = 8


def refuse_no_folder(root: Path) -> None:
    """Raise DataError if a path is not a folder."""
    if root.is_file() and root.suffix.lower() in _ARCHIVES:
        raise refusal("archive", root=root)
    if root.is_file():
        raise refusal("no-folder-but-file", root=root)
    if not root.is_dir():
        near = near_names(root, folders_in(root.parent) if root.parent.is_dir() else [])
        raise refusal("no-folder", root=root, near=near)


def refuse_home_inside(root: Path, home: Path) -> None:
    """Raise DataError if the home folder is inside the data, unless it has its default name."""
    inside = home.is_relative_to(root)
    if inside and not any(map(names.is_system_name, home.relative_to(root).parts)):
        raise refusal("home-inside", root=root, home=home)


def near_names(path: Path, beside: Sequence[Path]) -> str:
    """Return the paths with names similar to that of `path`, as the end of a sentence."""
    by_name = {p.name.lower(): str(p) for p in beside}
    near = difflib.get_close_matches(path.name.strip().lower(), by_name, n=3, cutoff=0.6)
    return f" (near: {', '.join(by_name[name] for name in near)})" if near else ""


def refuse_other_targets(root: Path, files: Sequence[Path]) -> None:
    """Raise DataError if the data belong to another target."""
    suffixes = {file.suffix.lower() for file in files}
    if (root / "trainannot").is_dir() and (root / "train").is_dir():
        raise refusal("other-target", root=root, origin="in the layout of CamVid", target="camvid")
    if any(any(root.glob(pattern)) for pattern in _OF_DATASETS) or (
        ".parquet" in suffixes and not suffixes & set(pictures.SUFFIXES)
    ):
        origin = "saved by the library datasets"
        raise refusal("other-target", root=root, origin=origin, target="hf")


def refuse_folder_pairs(root: Path, files: Sequence[Path]) -> None:
    """Raise DataError for folders such as train and train_masks, which look like classes."""
    if pair := names.find_images_and_labels(folders_in(root), files):
        images, labels = (folder.name for folder in pair)
        raise refusal("folder-pair", root=root, images=images, labels=labels)


def refuse_mask_folders(root: Path, files: Sequence[Path]) -> None:
    """Raise DataError if a folder that could be a class contains masks of another one's pictures.

    Masks have few colours, photographs many. If there are many folders, only those whose file names
    all occur in other folders are examined, since reading takes time.
    """
    by_folder: dict[Path, list[Path]] = {folder: [] for folder in folders_in(root)}
    for file in files:
        if is_picture(file) and (folder := root / file.relative_to(root).parts[0]) in by_folder:
            by_folder[folder].append(file)
    by_folder = {folder: inside for folder, inside in by_folder.items() if inside}
    if len(by_folder) > _FEW_FOLDERS:
        stems = {folder: {f.stem for f in inside} for folder, inside in by_folder.items()}
        shared = Counter(stem for of_folder in stems.values() for stem in of_folder)
        by_folder = {
            folder: inside
            for folder, inside in by_folder.items()
            if all(shared[stem] > 1 for stem in stems[folder])
        }
    if not 1 <= len(by_folder) <= _FEW_FOLDERS:
        return
    colours = {folder: _median_colours(inside) for folder, inside in by_folder.items()}
    labels, fewest = min(colours.items(), key=lambda item: item[1])
    images, most = max(colours.items(), key=lambda item: item[1])
    if 0 < most <= _MASK_COLOURS and all(names.is_label_folder(f.name) for f in by_folder):
        listed = ", ".join(f"{folder.name}/" for folder in by_folder)
        raise refusal("labels-alone", root=root, folders=listed)
    if 0 < fewest <= _MASK_COLOURS and most >= _PHOTOGRAPH_COLOURS:
        raise refusal("mask-folder", root=root, images=images.name, labels=labels.name)


def _median_colours(files: Sequence[Path]) -> float:
    """Return the median number of colours of a few pictures, 0 if none can be read."""
    counts = []
    step = max(1, len(files) // _N_SAMPLED)
    for file in files[::step][:_N_SAMPLED]:
        with (
            suppress(OSError, ValueError, SyntaxError),
            Image.open(file, formats=pictures.FORMATS) as picture,
        ):
            if picture.width * picture.height > pictures.MAX_PIXELS:
                continue
            picture.thumbnail((_SAMPLE_PX, _SAMPLE_PX), Image.Resampling.NEAREST)
            pixels = np.asarray(picture)
            values = pixels.reshape(-1, pixels.shape[2]) if pixels.ndim == 3 else pixels.ravel()
            counts.append(len(np.unique(values, axis=0)))
    return float(np.median(counts)) if counts else 0.0


def refuse_no_classes(root: Path, files: Sequence[Path]) -> None:
    """Raise DataError if the folders in `root` are not classes by their names and content."""
    _refuse_side_by_side(root, files)
    folders = folders_in(root)
    image_files = [file for file in files if is_picture(file)]
    inner = [{folder.name for folder in folders_in(folder)} for folder in folders]
    used = {file.relative_to(root).parts[0] for file in image_files}
    named = [f for f in folders if f.name in used and f.name.lower() in IMAGE_FOLDERS]
    labelled = names.labels_among(root, files, depth=1)
    shared = set.intersection(*inner) if inner else set()
    if len(folders) == 1 and len(inner[0]) > 1:
        listed = some(sorted(inner[0]), _FEW)
        raise refusal("one-folder", root=root, folder=folders[0].name, names=listed)
    if len(folders) > 1 and named and used <= {named[0].name}:
        raise refusal(
            "no-labels", subject=f"{root} has", **describe_no_labels(root, files, named[0])
        )
    if len(labelled) * 3 > len(image_files):
        raise refusal(
            "labels-in-class-folders",
            root=root,
            example=labelled[0].relative_to(root),
        )
    if len(folders) > 1 and {name.lower() for name in shared} & set(IMAGE_FOLDERS):
        raise refusal(
            "images-in-class-folders",
            root=root,
            names=", ".join(f"{name}/" for name in sorted(shared)),
            export=_how_to_export_masks(files),
        )


def _refuse_side_by_side(root: Path, files: Sequence[Path]) -> None:
    """Raise DataError if images and labels share a folder, such as x.jpg and x_mask.png."""
    image_files = [file for file in files if file.suffix.lower() in pictures.LABEL_SUFFIXES]
    groups: dict[Path, list[Path]] = defaultdict(list)
    for file in image_files:
        groups[file.with_name(names.bare_name(file.stem))].append(file)
    pairs = []
    for bare, group in groups.items():
        labels = (
            [file for file in group if names.is_label_name(file.stem)]
            or [file for file in group if file.suffix.lower() == ".npy"]
            or [file for file in group if file.suffix.lower() not in pictures.JPEG]
        )
        if labels and len(group) == len(labels) + 1:
            (image,) = set(group) - set(labels)
            pairs.append((image, labels[0], bare.name))
    if len(pairs) * 3 < len(image_files) or not pairs:
        return
    image, label, bare_stem = pairs[0]
    head, _, tail = label.name.partition(bare_stem)
    kind = next((k for k in ("depth", "normals") if k[:-1] in f"{head}{tail}".lower()), "masks")
    label_pattern = f"*{tail}" if not head else f"{head}*{label.suffix}"
    patterns = ((label_pattern, kind), (f"*{image.suffix}", "images"))
    if len({image.parent for image, _, _ in pairs}) == 1:
        where = "" if image.parent == root else shlex.quote(f"{image.parent.relative_to(root)}/")
        moves = [f"mv {where}{_quoted_glob(p)} {folder}/" for p, folder in patterns]
    else:
        elsewhere = f"-not -path './{kind}/*' -not -path './images/*'"
        moves = [
            f"find . -name {shlex.quote(p)} {elsewhere} -exec mv -n {{}} {folder}/ \\;"
            for p, folder in patterns
        ]
    raise refusal(
        "side-by-side",
        folder=image.parent,
        image=image.name,
        label=label.name,
        or_depth="" if names.is_label_name(label.stem) else text("or-depth"),
        kind=kind,
        command=" && ".join([f"cd {shlex.quote(str(root))}", f"mkdir -p images {kind}", *moves]),
    )


def _quoted_glob(pattern: str) -> str:
    """Quote a pattern for a shell, except its star."""
    return "*".join(shlex.quote(part) if part else "" for part in pattern.split("*"))


def describe_no_labels(root: Path, files: Sequence[Path], images: Path) -> dict[str, str]:
    """Return the values for the problem no-labels of a folder `images` without labels."""
    beside = [folder.name for folder in folders_in(root)]
    hint = _how_to_export_masks(files)
    if any(name.lower().startswith("disp") for name in beside):
        hint = text("disparity")
    elif not hint and len(beside) > 1:
        hint = text("rename-folder")
    inside = [folder.name for folder in folders_in(images)]
    if len([name for name in inside if split_from_name(name) is None]) > 1:
        hint += text("classes-in-images", names=some(inside, _FEW), folder=images)
    return {
        "names": ", ".join(f"{name}/" for name in beside),
        "hint": hint,
    }


def nothing_found(root: Path, files: Sequence[Path], columns: Sequence[str]) -> DataError:
    """Return the error for data without classes or labels, with what was found instead.

    Args:
        root: Folder of the data.
        files: All files in `root`.
        columns: Columns of attributes.csv; empty without one.
    """
    n = sum(is_picture(file) for file in files)
    suffixes = Counter(file.suffix.lower() or file.name for file in files).most_common()
    archives = sorted(file.name for file in files if file.suffix.lower() in _ARCHIVES)
    if n and columns:
        there = text("no-class-column", n=n, columns=some(columns, _MANY))
    elif n:
        there = text("no-class-folder", n=n, root=root) + _other_table(root)
    elif archives:
        there = text("archives-inside", root=root, names=some(archives, _FEW))
    elif suffixes:
        listed = some([f"{count} {suffix}" for suffix, count in suffixes], _MANY)
        there = text("other-files", names=listed)
    else:
        there = text("empty-folder")
    export = _how_to_export_masks(files)
    return refusal("nothing-found", root=root, there=there, export=export)


def _other_table(root: Path) -> str:
    """Return a hint to another table that may contain the classes."""
    tables = [path for path in root.glob("*.csv") if path.name not in COLOUR_FILES]
    for path in sorted(tables, key=lambda path: -path.stat().st_size):
        with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8-sig") as handle:
            columns = re.split(r"[,;\t]", handle.readline().strip())
            if len(columns) > 1:
                return text("other-table", table=path.name, columns=some(columns, _MANY))
    return ""


def _how_to_export_masks(files: Sequence[Path]) -> str:
    """Return advice on exporting masks if files seem to contain outlines or boxes."""
    stems = pictures.picture_stems(files)
    for file in files:
        place = f"{file.parent.name}/{file.name}"
        is_coco = file.suffix.lower() == ".json" and _COCO.match(place)
        if file.suffix.lower() in _SHAPES and (pictures.belongs_to_picture(file, stems) or is_coco):
            return text("export-masks", file=place)
    return ""
