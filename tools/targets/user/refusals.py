"""Data that cannot be read as they lie: refused with what they look like and what to do."""

from __future__ import annotations

import difflib
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from memory.errors import DataError, some
from tools.targets.splits import split_word
from tools.targets.user.class_files import COLOUR_FILES
from tools.targets.user.folder_names import (
    IMAGE_FOLDERS,
    bare_name,
    is_folder,
    is_label_name,
    labels_among,
    look_like_images_and_labels,
)
from tools.targets.user.pictures import (
    JPEG,
    LABEL_SUFFIXES,
    SUFFIXES,
    is_of_a_picture,
    is_picture,
    picture_stems,
)

LAYOUTS = (
    "Expected PATH/CLASS/*.png (a folder for each class), or PATH/images/ with PATH/masks/, "
    "PATH/depth/ or PATH/normals/; see docs/own-data.md."
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".xz")
# Files in which other programs keep boxes and outlines.
_SHAPES = (".json", ".xml", ".txt")
_IF_CLASSES = "If they are classes, say --set target.options.task=classification."
_OR_DEPTH = "Where they are depth or normals, read that for masks in what follows. "
_FEW = 3
_MANY = 8
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


def refuse_images_with_labels(root: Path, files: Sequence[Path]) -> None:
    """Raise DataError for folders as train and train_masks, which could be taken for classes."""
    folders = sorted(f for f in root.iterdir() if is_folder(f))
    if pair := look_like_images_and_labels(folders, files):
        images, labels = (folder.name for folder in pair)
        raise DataError(
            f"{images}/ and {labels}/ of {root} look like images and their labels of pixels. Call "
            "the folders images/ and masks/ (or depth/, normals/), with splits images/train/ and "
            f"masks/train/, and give an image and its labels one name. {_IF_CLASSES}"
        )


def refuse_no_classes(root: Path, part: Path, files: Sequence[Path]) -> None:
    """Raise DataError where folders hold something else than a class each, by their names."""
    _refuse_side_by_side(part, files)
    folders = sorted(f for f in part.iterdir() if is_folder(f))
    if len(folders) == 1:
        (only,) = folders
        inside = sorted(f.name for f in only.iterdir() if is_folder(f))
        if len(inside) > 1:
            raise DataError(
                f"{part} holds one folder, {only.name}/, with the folders {some(inside, 5)}. If "
                f"these are the classes or splits, give --target 'folder:{only}'."
            )
    full = {f.relative_to(part).parts[0] for f in files if is_picture(f)}
    named = [f for f in folders if f.name in full and f.name.lower() in IMAGE_FOLDERS]
    if len(folders) > 1 and named and full <= {named[0].name}:
        raise DataError(f"{part} has {no_labels(part, files, named[0])}")
    labelled = labels_among(part, files, depth=1)
    if len(labelled) * 3 > len([f for f in files if is_picture(f)]):
        raise DataError(
            f"The folders of {part} are no classes: they hold labels of pixels, as "
            f"{labelled[0].relative_to(part)}. Put images and labels into folders side by side, "
            f"with equal names. {_IF_CLASSES} {LAYOUTS}"
        )
    inner = [{f.name for f in folder.iterdir() if is_folder(f)} for folder in folders]
    shared = set.intersection(*inner) if inner else set()
    if len(folders) > 1 and {name.lower() for name in shared} & set(IMAGE_FOLDERS):
        raise DataError(
            f"The folders of {part} are no classes: each holds "
            f"{', '.join(f'{name}/' for name in sorted(shared))}. Labels of pixels are pictures in "
            f"a folder beside the images. {_how_to_paint(files)}{LAYOUTS}"
        )


def _refuse_side_by_side(part: Path, files: Sequence[Path]) -> None:
    """Raise DataError where images and their labels are in one folder, as x.jpg and x_mask.png."""
    groups: dict[Path, list[Path]] = defaultdict(list)
    pictures = [file for file in files if file.suffix.lower() in LABEL_SUFFIXES]
    for file in pictures:
        groups[file.with_name(bare_name(file.stem))].append(file)
    pairs = []
    for bare, own in groups.items():
        labels = [file for file in own if is_label_name(file.stem)]
        if not labels:  # x.png beside x.jpg, or x.npy beside either
            arrays = [file for file in own if file.suffix.lower() == ".npy"]
            labels = arrays or [file for file in own if file.suffix.lower() not in JPEG]
        if labels and len(own) == len(labels) + 1:
            (image,) = set(own) - set(labels)
            pairs.append((image, labels[0], bare.name))
    if len(pairs) * 3 < len(pictures) or not pairs:
        return
    image, label, bare_stem = pairs[0]
    head, _, tail = label.name.partition(bare_stem)
    kind = next((k for k in ("depth", "normals") if k[:-1] in f"{head}{tail}".lower()), "masks")
    of_labels = f"*{tail}" if not head else f"{head}*{label.suffix}"
    folders = {one.parent for one, _, _ in pairs}
    if len(folders) == 1:
        where = "" if image.parent == part else shlex.quote(f"{image.parent.relative_to(part)}/")
        moves = [
            f"mv {where}{_glob(name)} {to}/"
            for name, to in ((of_labels, kind), (f"*{image.suffix}", "images"))
        ]
    else:
        elsewhere = f"-not -path './{kind}/*' -not -path './images/*'"
        moves = [
            f"find . -name {shlex.quote(name)} {elsewhere} -exec mv -n {{}} {to}/ \\;"
            for name, to in ((of_labels, kind), (f"*{image.suffix}", "images"))
        ]
    raise DataError(
        f"{image.parent} holds images beside their labels of pixels ({image.name}, {label.name}). "
        f"{_OR_DEPTH if not is_label_name(label.stem) else ''}Part them into images/ and {kind}/: "
        f"cd {shlex.quote(str(part))} && mkdir -p images {kind} && {' && '.join(moves)}"
    )


def _glob(name: str) -> str:
    """Return a pattern for a shell, quoted but for its star."""
    return "*".join(shlex.quote(text) if text else "" for text in name.split("*"))


def no_labels(part: Path, files: Sequence[Path], image_folder: Path) -> str:
    """Say that images have no labels of pixels beside them, and what there is."""
    beside = sorted(f.name for f in part.iterdir() if is_folder(f))
    said = (
        "images and no labels of pixels beside them, in masks/, depth/ or normals/ (there is: "
        f"{', '.join(f'{name}/' for name in beside)}). "
    )
    if any(name.lower().startswith("disp") for name in beside):
        said += (
            "Disparity is no depth: save focal length (pixels) times baseline (metres) by "
            "disparity (pixels) in depth/. "
        )
    elif paint := _how_to_paint(files):
        said += paint
    elif len(beside) > 1:
        said += "Rename the folder that has them so. "
    inside = [f.name for f in sorted(image_folder.iterdir()) if is_folder(f)]
    if len([name for name in inside if split_word(name) is None]) > 1:
        said += (
            f"If {some(inside, 5)} in {image_folder.name}/ are classes, give --target "
            f"'folder:{image_folder}'. "
        )
    return (
        f"{said}If each image has one class, sort the images into a folder for each, or name it in "
        f"the column class of PATH/attributes.csv. {LAYOUTS}"
    )


def unread_labels(kind: str, ending: str) -> str:
    """Say that labels of pixels are in a format that nothing here reads."""
    files, form = {
        "segmentation": ("masks", "masks as PNG with ids in 8 or 16 bits, or as .npy"),
        "depth": ("depth files", "depth as 16-bit PNG (metres times 256) or as .npy in metres"),
        "normals": ("files of normals", "normals as 8-bit RGB, 127 n + 128"),
    }[kind]
    return f"{files} in formats that are not read, {ending}: save {form}"


def nothing_found(root: Path, files: Sequence[Path], columns: Sequence[str]) -> str:
    """Say that there are no photographs of a class or with labels, and what is there instead.

    columns: those of the table, none without one.
    """
    n = sum(is_picture(file) for file in files)
    said = f"No pictures of a class or with labels are in {root}. "
    if n and columns:
        said += (
            f"Its {n} pictures lie in no class folder, and attributes.csv has the columns "
            f"{some(columns, _MANY)} and none called class: call the one so that says the class. "
        )
    elif n:
        said += (
            f"Its {n} pictures lie in no class folder: sort them into a folder for each class, or "
            f"write {root / 'attributes.csv'}, a line FILE,CLASS for each below the head "
            f"file,class. {_other_table(root)}"
        )
    elif archives := sorted(f.name for f in files if f.suffix.lower() in _ARCHIVES):
        said += (
            f"It holds archives ({some(archives, _FEW)}): unpack them. Shards of webdataset: "
            f"datasets.load_dataset('webdataset', data_files='{root}/*.tar').save_to_disk('NEW'), "
            "then --target hf:NEW. "
        )
    else:
        endings = Counter(file.suffix.lower() or file.name for file in files).most_common()
        there = some([f"{count} {ending}" for ending, count in endings], _MANY)
        said += f"It holds no picture: {there}. " if endings else "It is empty. "
    return said + _how_to_paint(files) + LAYOUTS


def _other_table(root: Path) -> str:
    """Say which table of another name may hold the classes."""
    tables = [path for path in root.glob("*.csv") if path.name not in COLOUR_FILES]
    for path in sorted(tables, key=lambda path: -path.stat().st_size):
        with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8-sig") as handle:
            columns = re.split(r"[,;\t]", handle.readline().strip())
            if len(columns) > 1:
                return (
                    f"{path.name} may be such a table: it has the columns {some(columns, _MANY)}; "
                    "copy it, and call the column so that says the class. "
                )
    return ""


def _how_to_paint(files: Collection[Path]) -> str:
    """Say what to do with outlines and boxes, if files look as if they held such."""
    stems = picture_stems(files)
    shapes = [
        file
        for file in files
        if file.suffix.lower() in _SHAPES
        and (
            is_of_a_picture(file, stems)
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
