"""Names that folders and files of images and of their labels have, here and in other programs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from memory.errors import DataError, some
from tools.targets.user.pictures import LABEL_SUFFIXES, is_picture
from tools.targets.user.problems import Problems

KINDS = {"masks": "segmentation", "depth": "depth", "normals": "normals"}
_FOLDER_OF = {"images": "images", "segmentation": "masks", "depth": "depth", "normals": "normals"}
# Names under which other programs keep images and their labels side by side.
IMAGE_FOLDERS = (
    "images", "image", "imgs", "img", "photos", "photo", "pictures", "rgb", "jpegimages", "frames",
    "leftimg8bit",
)  # fmt: skip
_LABEL_FOLDERS = {
    "segmentation": (
        "masks", "mask", "labels", "label", "annotations", "annotation", "annot", "segmentation",
        "segmentations", "segmentationclass", "seg", "gt", "groundtruth", "ground_truth", "gtfine",
        "masks_machine", "semantic", "semantics", "semantic_segmentation", "semseg",
    ),
    "depth": ("depth", "depths", "depth_maps"),
    "normals": ("normals", "normal"),
}  # fmt: skip
_LABEL_NAMES = {name for names in _LABEL_FOLDERS.values() for name in names}
_LABEL_WORDS = _LABEL_NAMES | {"map", "maps"}
_IMAGE_WORDS = {*IMAGE_FOLDERS, "of"}
_MOST = 0.9
_FEW = 3
# What systems leave in folders of pictures: Windows, and the NAS of Synology.
_LEFT_BY_SYSTEMS = ("thumbs.db", "desktop.ini", "@eadir", "system volume information")
# Words that are put before or after the name of an image, or of its labels.
_LABEL_AFFIXES = (
    "mask|label|labels|labelids|gt|gtfine|ground_truth|seg|segmentation|annotation|depth|normal|"
    "normals"
)
_AFFIXES = f"image|img|photo|picture|rgb|sat|leftimg8bit|{_LABEL_AFFIXES}"


def _affix(words: str) -> re.Pattern[str]:
    return re.compile(rf"^(?:{words})[ _.-]+(?=.)|(?<=.)[ _.-]+(?:{words})$", re.IGNORECASE)


_AFFIX = _affix(_AFFIXES)
_LABEL_AFFIX = _affix(_LABEL_AFFIXES)
# Of Cityscapes' two kinds of ids these are taken where the others are not there.
_TRAIN_IDS = _affix(f"{_AFFIXES}|labeltrainids")


def files_below(root: Path, found: Problems) -> list[Path]:
    """Return the files below a folder, sorted, without what systems and programs leave there.

    Links are followed, but for one to a folder that holds it. Raises DataError for names that are
    not in UTF-8, which no journal or page could hold.
    """
    files = []
    foreign = []
    pending = [(root, {root.resolve()})]
    while pending:
        folder, above = pending.pop()
        try:
            inside = list(folder.iterdir())
        except PermissionError:
            found.note("folders that may not be read, left out", str(folder.relative_to(root)))
            continue
        for path in inside:
            if _is_left(path.name):
                continue
            shown = str(path.relative_to(root)).encode("utf-8", "backslashreplace").decode()
            if shown != str(path.relative_to(root)):
                foreign.append(shown)
            elif path.is_file():
                files.append(path)
            elif path.is_dir():
                if (real := path.resolve()) not in above:
                    pending.append((path, above | {real}))
            elif path.is_symlink():
                found.note("links that lead nowhere, left out", str(path.relative_to(root)))
    if foreign:
        raise DataError(
            f"Rename what has names in {root} that are not in UTF-8, as archives of other systems "
            f"leave them ({len(foreign)}): {some(sorted(foreign), _FEW)}"
        )
    return sorted(files)


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder of the user's, none that a system or program has left."""
    return path.is_dir() and not _is_left(path.name)


def _is_left(name: str) -> bool:
    return name.startswith((".", "__", "$")) or name.lower() in _LEFT_BY_SYSTEMS


def roles_of(part: Path, files: Sequence[Path]) -> dict[str, str]:
    """Return what the folders of a part hold: "images", or a kind of labels; {} for classes.

    Raises DataError where several may be meant.
    """
    folders = {f.name: f.name.lower() for f in part.iterdir() if is_folder(f)}
    full = {
        file.relative_to(part).parts[0]
        for file in files
        if file.suffix.lower() in LABEL_SUFFIXES and file.parent != part
    }
    roles: dict[str, str] = {}
    usual = {"images": "images", **KINDS}
    for kind, names in {"images": IMAGE_FOLDERS, **_LABEL_FOLDERS}.items():
        exact = [name for name in folders if usual.get(name) == kind]
        others = [name for name, low in folders.items() if low in names and name in full]
        if not exact and len(others) > 1:
            others = sorted(others)
            rest = ", ".join(f"{name}/" for name in others)
            if not _is_layout(folders.values()):
                continue
            raise DataError(
                f"{part} looks like images and their labels of pixels, and {rest} may all hold "
                f"{kind}. Rename the one that does to {_FOLDER_OF[kind]}/. If they are classes, "
                "give them other names."
            )
        roles |= dict.fromkeys(exact or others, kind)
    kinds = set(roles.values())
    return roles if "images" in folders or ("images" in kinds and len(kinds) > 1) else {}


def _is_layout(names: Collection[str]) -> bool:
    """Tell whether folders have names of images and of labels of pixels, too."""
    return bool(_LABEL_NAMES & set(names)) and bool(set(IMAGE_FOLDERS) & set(names))


def labels_among(root: Path, files: Sequence[Path], depth: int = 0) -> list[Path]:
    """Return the pictures in folders that have a name of labels of pixels.

    depth: how many folders below `root` do not count.
    """
    return [
        file
        for file in files
        if file.suffix.lower() in LABEL_SUFFIXES
        and _LABEL_NAMES & {part.lower() for part in file.relative_to(root).parts[depth:-1]}
    ]


def look_like_images_and_labels(
    folders: Sequence[Path], files: Sequence[Path]
) -> tuple[Path, Path] | None:
    """Return two folders that could be classes, but are named and filled as images and labels.

    Their names differ by words such as images and masks alone, and most names of pictures in the
    second are those in the first; or they are such words alone, for equally many pictures.
    """
    if not any(_words(folder.name) & _LABEL_WORDS for folder in folders):
        return None
    stems: dict[Path, set[str]] = {folder: set() for folder in folders}
    for file in files:
        if is_picture(file):
            for folder in (f for f in file.parents if f in stems):
                stems[folder].add(bare_name(str(file.relative_to(folder).with_suffix(""))))
    for labels, own in stems.items():
        words = _words(labels.name)
        rest = words - _LABEL_WORDS
        for images, others in stems.items():
            named = rest != words and rest == _words(images.name) - _IMAGE_WORDS
            same = len(own & others) > _MOST * len(own) or (not rest and len(own) == len(others))
            if named and images != labels and own and same:
                return images, labels
    return None


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def bare_name(name: str, affix: re.Pattern[str] = _AFFIX) -> str:
    """Return the name of an image or of its labels without words such as image or mask."""
    while (short := affix.sub("", name)) != name:
        name = short
    return name


def is_label_name(name: str) -> bool:
    """Tell whether a name begins or ends with a word of labels, as x_mask."""
    return bool(_LABEL_AFFIX.search(name))


def joined_by_bare_names(
    kind: str, own: dict[str, list[Path]], images: Mapping[str, list[Path]], found: Problems
) -> dict[str, list[Path]]:
    """Return labels by the names of their images, where these differ by words such as mask."""

    def bare(stem: str, affix: re.Pattern[str] = _AFFIX) -> str:
        # The name of an image may stand whole before the ending, as in x.jpg.png.
        path = Path(stem).with_suffix("") if is_picture(Path(stem)) else Path(stem)
        return str(path.with_name(bare_name(path.name, affix)))

    by_bare = {bare(stem): stem for stem in images}
    bare_of = {stem: bare(stem) for stem in own}
    if not by_bare.keys() & bare_of.values():
        bare_of = {stem: bare(stem, _TRAIN_IDS) for stem in own}
    how = "are named as their image but for a word"
    if not by_bare.keys() & bare_of.values():
        by_bare = {Path(name).name: stem for name, stem in by_bare.items()}
        bare_of = {stem: Path(name).name for stem, name in bare_of.items()}
        how = "lie in other folders than their images"
        if len(set(bare_of.values())) < len(own):
            return own
    if len(by_bare) < len(images) or not by_bare.keys() & bare_of.values():
        return own
    joined: dict[str, list[Path]] = defaultdict(list)
    for stem, sources in own.items():
        joined[by_bare.get(bare_of[stem], stem)] += sources
    label = next(stem for stem in own if bare_of[stem] in by_bare)
    image = by_bare[bare_of[label]]
    label += own[label][0].suffix
    image += images[image][0].suffix
    found.note(f"files of {kind} {how}, as {label!r} and {image!r}")
    return joined
