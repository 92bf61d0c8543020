"""Data that cannot be read as they lie: refused with what they look like and what to do."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from memory.errors import DataError, some
from tools.targets._folder_names import IMAGE_FOLDERS, bare_name, is_folder
from tools.targets._pictures import SUFFIXES

LAYOUTS = (
    "Expected PATH/CLASS/*.png (a folder for each class), or PATH/images/ with PATH/masks/, "
    "PATH/depth/ or PATH/normals/; see docs/own-data.md."
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".xz")
# Files in which other programs keep boxes and outlines.
_SHAPES = (".json", ".xml", ".txt")
_COCO = re.compile(r"annotations/|.*/_?(?:annotations|instances)", re.IGNORECASE)


def refuse_no_folder(root: Path) -> None:
    """Raise DataError for a path that is no folder."""
    if root.is_dir():
        return
    if not root.exists():
        raise DataError(f"There is no folder {root}{_near(root)}. {LAYOUTS}")
    if root.suffix.lower() in _ARCHIVES:
        raise DataError(
            f"{root} is an archive. Unpack it, and give the folder that comes out by "
            "--target folder:PATH."
        )
    hint = f" If it is one of your photographs, give their folder. {LAYOUTS}"
    raise DataError(f"There is no folder {root}; it is a file.{hint}")


def _near(path: Path) -> str:
    """Return the folders beside a path that are called nearly so, as an end of a sentence."""
    if not path.parent.is_dir():
        return ""
    names = {f.name.lower(): f for f in path.parent.iterdir() if is_folder(f)}
    found = difflib.get_close_matches(path.name.strip().lower(), names, n=3, cutoff=0.6)
    return f" (near: {', '.join(str(names[name]) for name in found)})" if found else ""


def refuse_other_kinds(root: Path, files: Sequence[Path]) -> None:
    """Raise DataError for data that another target reads."""
    endings = {file.suffix.lower() for file in files}
    saved = (root / "dataset_dict.json").is_file() or any(root.glob("*.arrow"))
    listed = [*root.glob("metadata.jsonl"), *root.glob("*/metadata.jsonl")]
    kind = ""
    if (root / "trainannot").is_dir() and (root / "train").is_dir():
        kind = "camvid"
    elif saved or listed or (".parquet" in endings and not endings & set(SUFFIXES)):
        kind = "hf"
    if kind:
        known = {"hf": "the library datasets saves them", "camvid": "CamVid has them"}[kind]
        raise DataError(f"The files in {root} lie as {known}: say --target '{kind}:{root}'.")


def refuse_no_classes(root: Path, part: Path, files: Sequence[Path]) -> None:
    """Raise DataError where folders hold something else than a class each, by their names."""
    _refuse_side_by_side(root, files)
    folders = sorted(f for f in part.iterdir() if is_folder(f))
    if len(folders) == 1:
        (only,) = folders
        inside = sorted(f.name for f in only.iterdir() if is_folder(f))
        if len(inside) > 1:
            raise DataError(
                f"{part} holds one folder, {only.name}/, with the folders {some(inside, 5)}. If "
                f"these are the classes or splits, give --target 'folder:{only}'."
            )
    inner = [{f.name for f in folder.iterdir() if is_folder(f)} for folder in folders]
    shared = set.intersection(*inner) if inner else set()
    if len(folders) > 1 and {name.lower() for name in shared} & set(IMAGE_FOLDERS):
        raise DataError(
            f"The folders of {part} are no classes: each holds "
            f"{', '.join(f'{name}/' for name in sorted(shared))}. Labels of pixels are pictures in "
            f"a folder beside the images. {_how_to_paint(files)}{LAYOUTS}"
        )


def _refuse_side_by_side(root: Path, files: Sequence[Path]) -> None:
    """Raise DataError where images and their labels are in one folder, as x.jpg and x_mask.png."""
    pictures = {file.with_suffix(""): file for file in files if file.suffix.lower() in SUFFIXES}
    pairs = [
        (image, file)
        for stem, file in pictures.items()
        if (image := pictures.get(stem.with_name(bare_name(stem.name)))) not in (None, file)
    ]
    if len(pairs) * 2 < len(pictures) or not pairs:
        return
    image, label = pairs[0]
    assert image is not None
    tail = label.name.removeprefix(image.stem)
    kind = next((k for k in ("depth", "normals") if k[:-1] in tail.lower()), "masks")
    where = shlex.quote(f"{image.parent}/")
    moved = f"{where}*{shlex.quote(tail)}" if tail != label.name else where
    raise DataError(
        f"{image.parent} holds images beside their labels of pixels ({image.name}, {label.name}). "
        f"Part them into images/ and {kind}/: cd {shlex.quote(str(root))} && mkdir -p images "
        f"{kind} && mv {moved} {kind}/ && mv {where}*{image.suffix} images/"
    )


def no_labels(root: Path, part: Path, files: Sequence[Path]) -> str:
    """Say that images have no labels of pixels beside them, and what there is."""
    beside = ", ".join(f"{f.name}/" for f in sorted(part.iterdir()) if is_folder(f))
    return (
        f"{part} has images and no labels of pixels beside them, in masks/, depth/ or normals/ "
        f"(there is: {beside}): rename their folder so. {_how_to_paint(files)}If each image has "
        f"one class, sort the images into a folder for each, or name it in the column class of "
        f"{root / 'attributes.csv'}. {LAYOUTS}"
    )


def nothing_found(root: Path, files: Sequence[Path]) -> str:
    """Say that there are no photographs of a class or with labels, and what is there instead."""
    n = sum(file.suffix.lower() in SUFFIXES for file in files)
    said = f"No pictures of a class or with labels are in {root}. "
    if n:
        said += (
            f"Its {n} pictures lie in no class folder: sort them into a folder for each class, or "
            f"write {root / 'attributes.csv'}, a line FILE,CLASS for each below the head "
            "file,class. "
        )
    return said + _how_to_paint(files) + LAYOUTS


def _how_to_paint(files: Collection[Path]) -> str:
    """Say what to do with outlines and boxes, if files look as if they held such."""
    stems = {file.stem for file in files if file.suffix.lower() in SUFFIXES}
    shapes = [
        file
        for file in files
        if file.suffix.lower() in _SHAPES
        and (
            file.stem in stems
            or Path(file.stem).stem in stems
            or (file.suffix.lower() == ".json" and _COCO.match(f"{file.parent.name}/{file.name}"))
        )
    ]
    if not shapes:
        return ""
    return (
        f"Outlines and boxes, as perhaps {shapes[0].parent.name}/{shapes[0].name} has them, are "
        "not read: let the program that wrote them export masks (PNG, a pixel's value is the id "
        "of its class) with the names of the images. "
    )
