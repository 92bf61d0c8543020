"""Common names of folders and files of images and labels."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.targets.user.label_files import LABEL_NAMES
from tools.targets.user.pictures import LABEL_SUFFIXES, composed, is_picture
from tools.targets.validation import ValidationReport, refusal

IMAGE_FOLDERS = (
    "images", "image", "imgs", "img", "photos", "photo", "pictures", "rgb", "jpegimages", "frames",
    "leftimg8bit",
)  # fmt: skip
_FOLDERS = {
    "images": IMAGE_FOLDERS,
    "segmentation": (
        "masks", "mask", "labels", "label", "annotations", "annotation", "annot", "segmentation",
        "segmentations", "segmentationclass", "seg", "gt", "groundtruth", "ground_truth", "gtfine",
        "masks_machine", "semantic", "semantics", "semantic_segmentation", "semseg",
    ),
    "depth": ("depth", "depths", "depth_maps"),
    "normals": ("normals", "normal"),
}  # fmt: skip
_LABEL_FOLDERS = {name for kind, names in _FOLDERS.items() for name in names if kind != "images"}
_LABEL_WORDS = _LABEL_FOLDERS | {"map", "maps"}
_IMAGE_WORDS = {*IMAGE_FOLDERS, "of"}
_MOST = 0.9
# Files and folders created by Windows, Synology NAS and this program among pictures.
_SYSTEM_NAMES = (
    "thumbs.db", "desktop.ini", "@eadir", "system volume information", "shaping-home",
)  # fmt: skip
# Words before or after the name of an image or of its labels.
_LABEL_AFFIXES = (
    "mask|label|labels|labelids|gt|gtfine|ground_truth|seg|segmentation|annotation|depth|normal|"
    "normals"
)
_AFFIXES = f"image|img|photo|picture|rgb|sat|leftimg8bit|{_LABEL_AFFIXES}"


def _affix(words: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:{words})[ _.-]+(?=.)|(?<=.)[ _.-]+(?:{words})$", re.IGNORECASE)


_AFFIX = _affix(_AFFIXES)
_LABEL_AFFIX = _affix(_LABEL_AFFIXES)
# Cityscapes has two kinds of ids; train ids are used if the others are missing.
_TRAIN_IDS = _affix(f"{_AFFIXES}|labeltrainids")


def is_system_name(name: str) -> bool:
    """Return whether a file or folder was created by a system or program, not by the user."""
    return is_hidden_name(name) or name.lower() in _SYSTEM_NAMES


def is_hidden_name(name: str) -> bool:
    """Return whether a name has a prefix of hidden files, which users may also use."""
    return name.startswith((".", "__", "$"))


def paths_in(folder: Path) -> list[Path]:
    """Return the entries of a folder; [] without permission to list and open it."""
    return list(folder.iterdir()) if os.access(folder, os.R_OK | os.X_OK) else []


def folders_in(path: Path) -> list[Path]:
    """Return the sorted subfolders that belong to the user."""
    return sorted(p for p in paths_in(path) if p.is_dir() and not is_system_name(p.name))


def roles_of(part: Path, files: Sequence[Path]) -> dict[str, str]:
    """Return the content of a part's folders: "images" or a kind of labels; {} for classes.

    Raises:
        DataError: Several folders may contain the same kind.
    """
    folders = {folder.name: folder.name.lower() for folder in folders_in(part)}
    used = {
        file.relative_to(part).parts[0]
        for file in files
        if file.suffix.lower() in LABEL_SUFFIXES and file.parent != part
    }
    # Folders named as images together with folders named as labels are not classes.
    is_layout = _LABEL_FOLDERS & {*folders.values()} and {*IMAGE_FOLDERS} & {*folders.values()}
    usual = {"images": "images", **LABEL_NAMES}
    roles: dict[str, str] = {}
    for kind, names in _FOLDERS.items():
        exact = [usual[kind]] if usual[kind] in folders else []
        others = [name for name, lower in folders.items() if lower in names and name in used]
        if not exact and len(others) > 1:
            if not is_layout:
                continue
            listed = ", ".join(f"{name}/" for name in others)
            raise refusal(
                "ambiguous-labels", part=part, folders=listed, kind=kind, folder=usual[kind]
            )
        roles |= dict.fromkeys(exact or others, kind)
    kinds = set(roles.values())
    return roles if "images" in folders or ("images" in kinds and len(kinds) > 1) else {}


def labels_among(root: Path, files: Sequence[Path], depth: int = 0) -> list[Path]:
    """Return the pictures in folders that are named as pixel labels.

    Args:
        root: Folder of the files.
        files: Files below `root`.
        depth: Number of folder levels below `root` to ignore.
    """
    return [
        file
        for file in files
        if file.suffix.lower() in LABEL_SUFFIXES
        and _LABEL_FOLDERS & {part.lower() for part in file.relative_to(root).parts[depth:-1]}
    ]


def find_images_and_labels(
    folders: Sequence[Path], files: Sequence[Path]
) -> tuple[Path, Path] | None:
    """Return two folders that could be classes, but look like images and labels.

    Their names differ only by words such as images and masks, and most file names in the second
    occur in the first; or the names are such words alone, with equally many pictures.
    """
    if not any(_words(folder.name) & _LABEL_WORDS for folder in folders):
        return None
    stems: dict[Path, set[str]] = {folder: set() for folder in folders}
    for file in files:
        if is_picture(file):
            for folder in (f for f in file.parents if f in stems):
                stems[folder].add(bare_name(str(file.relative_to(folder).with_suffix(""))))
    for labels, label_stems in stems.items():
        words = _words(labels.name)
        rest = words - _LABEL_WORDS
        for images, image_stems in stems.items():
            named = rest != words and rest == _words(images.name) - _IMAGE_WORDS
            same = len(label_stems & image_stems) > _MOST * len(label_stems) or (
                not rest and len(label_stems) == len(image_stems)
            )
            if named and images != labels and label_stems and same:
                return images, labels
    return None


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def bare_name(name: str, affix: re.Pattern[str] = _AFFIX) -> str:
    """Return the name of an image or its labels without words such as image or mask."""
    name = composed(name)
    while (short := affix.sub("", name)) != name:
        name = short
    return name


def is_label_folder(name: str) -> bool:
    """Return whether a folder is named as pixel labels."""
    return name.lower() in _LABEL_FOLDERS or name.lower().startswith("segmentation")


def is_label_name(name: str) -> bool:
    """Return whether a name begins or ends with a word for labels, such as x_mask."""
    return bool(_LABEL_AFFIX.search(name))


def match_labels(
    kind: str,
    labels: Mapping[str, list[Path]],
    images: Mapping[str, list[Path]],
    report: ValidationReport,
) -> Mapping[str, list[Path]]:
    """Match labels to images whose names differ by words such as mask.

    Args:
        kind: Kind of the labels.
        labels: Label files by path without suffix.
        images: Image files by path without suffix, disjoint from those of `labels`.
        report: Collects a warning about the match.
    """

    def bare(stem: str, affix: re.Pattern[str] = _AFFIX) -> str:
        # The complete file name of the image may precede the suffix, as in x.jpg.png.
        path = Path(stem).with_suffix("") if is_picture(Path(stem)) else Path(stem)
        return str(path.with_name(bare_name(path.name, affix)))

    by_bare = {bare(stem): stem for stem in images}
    bare_of = {stem: bare(stem) for stem in labels}
    if not by_bare.keys() & bare_of.values():
        bare_of = {stem: bare(stem, _TRAIN_IDS) for stem in labels}
    difference = "are named as their image but for a word"
    if not by_bare.keys() & bare_of.values():
        by_bare = {Path(name).name: stem for name, stem in by_bare.items()}
        bare_of = {stem: Path(name).name for stem, name in bare_of.items()}
        difference = "lie in other folders than their images"
        if len(set(bare_of.values())) < len(labels):
            return labels
    if len(by_bare) < len(images) or not by_bare.keys() & bare_of.values():
        return labels
    joined: dict[str, list[Path]] = defaultdict(list)
    for stem, sources in labels.items():
        joined[by_bare.get(bare_of[stem], stem)] += sources
    label = next(stem for stem in labels if bare_of[stem] in by_bare)
    image = by_bare[bare_of[label]]
    label += labels[label][0].suffix
    image += images[image][0].suffix
    report.warn("label-matched", kind=kind, difference=difference, label=label, image=image)
    return joined
