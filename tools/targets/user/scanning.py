"""What lies in folders of a user's own: pictures of classes, and images with labels of pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from memory.errors import some
from prompts.own_words import plain, value_of
from tools.targets.splits import WORDS
from tools.targets.user.folder_names import KINDS, is_folder, joined_by_bare_names
from tools.targets.user.loading import Item
from tools.targets.user.pictures import is_picture
from tools.targets.user.problems import Problems
from tools.targets.user.refusals import no_labels, unread_labels

_FOLDERS = "masks/, depth/ or normals/"
_FEW = 5
# Formats of labels that nothing here reads.
_ARRAYS = (".npz", ".exr", ".pfm", ".mat", ".h5", ".hdf5", ".pt", ".dpt", ".pkl", ".raw", ".bin")
_UNREAD_FORMATS = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".raw", ".svg",
)  # fmt: skip


def scan_classes(
    root: Path,
    part: Path,
    split: str | None,
    files: Sequence[Path],
    lists: Collection[Path],
    by_table: bool,
    found: Problems,
) -> Iterator[Item]:
    """Yield the pictures of class folders and, by_table, those of which the table may know more."""
    words: dict[str, str] = {}
    by_class: dict[str, list[Path]] = {
        child.name: []
        for child in sorted(part.iterdir())
        if is_folder(child) and not any(file.is_relative_to(child) for file in lists)
    }
    inner = {}
    for file in files:
        inside = file.relative_to(part).parts
        name = str(file.relative_to(root))
        if len(inside) > 1 and _is_read(file, name, found):
            by_class[inside[0]].append(file)
            inner[file] = inside[1:-1]
            if inner[file]:
                found.note("pictures in folders within a class folder, which belong to it", name)
        elif len(inside) == 1 and is_picture(file):
            if by_table:
                yield Item(name, file, split=split)
            else:
                found.note("pictures in no class folder, left out", name)
    if inner and all(inner.values()):
        names = sorted({folders[-1] for folders in inner.values()})
        found.note(
            "no picture lies in a class folder itself: if the folders within, "
            f"{some(names, _FEW)}, are the classes, move them up"
        )
    for folder, own in by_class.items():
        class_name = plain(folder)
        if not class_name:
            found.fault(
                "class folders without a letter or digit in their name: rename them", folder
            )
        if not own:
            found.fault("class folders without a picture: fill them, or take them away", folder)
        other = words.setdefault(value_of(folder), folder)
        if other != folder:
            found.fault(
                f"class folders that read like {other!r}: rename them, or join them", folder
            )
        for file in own:
            yield Item(str(file.relative_to(root)), file, class_name, split)


def scan_images(
    root: Path,
    part: Path,
    split: str | None,
    files: Sequence[Path],
    role_of: Mapping[str, str],
    by_table: bool,
    found: Problems,
) -> Iterator[Item]:
    """Yield the images of a part with their labels of pixels.

    role_of: what its folders hold, as `roles_of` tells; by_table: whether a table names classes,
    so that no labels are needed.
    """
    for folder, kind in role_of.items():
        if folder not in ("images", *KINDS):
            found.note(f"{'masks' if kind == 'segmentation' else kind} are read from {folder}/")
    labels: dict[str, dict[str, list[Path]]] = {kind: defaultdict(list) for kind in KINDS.values()}
    images: dict[str, list[Path]] = defaultdict(list)
    unread: dict[str, list[str]] = defaultdict(list)
    for file in files:
        folder, *inside = file.relative_to(part).parts
        if not inside:
            if is_picture(file):
                found.note("pictures outside of images/, left out", file.name)
            continue
        stem = str(Path(*inside).with_suffix(""))
        name = str(file.relative_to(root))
        role = role_of.get(folder, "")
        if role == "images" and _is_read(file, name, found):
            images[stem].append(file)
        elif role in labels and file.suffix.lower() in _ARRAYS:
            unread[role].append(name)
        elif role in labels and (file.suffix.lower() == ".npy" or _is_read(file, name, found)):
            labels[role][stem].append(file)
        elif not role:
            found.note(f"files in {folder}/, which is not images/, {_FOLDERS}, left out", name)
    for kind, own in labels.items():
        if own and images and not own.keys() & images.keys():
            labels[kind] = own = joined_by_bare_names(kind, own, images, found)
        if own and images and not own.keys() & images.keys():
            label, image = (min(f.values())[0].relative_to(root) for f in (own, images))
            found.fault(
                f"files of {kind} are named unlike every image: give an image and its labels one "
                "name, but for the ending",
                f"{label}, {image}",
            )
            continue
        for stem, sources in own.items():
            if stem not in images:
                found.note(
                    f"{kind} files that belong to no image, left out",
                    str(sources[0].relative_to(root)),
                )
            if len(sources) > 1:
                found.fault(f"images with two {kind} files: keep one", stem)
    for kind, names in unread.items():
        for name in names:
            found.fault(unread_labels(kind, Path(name).suffix), name)
    if not any(labels.values()) and not unread and not by_table:
        (folder,) = (name for name, role in role_of.items() if role == "images")
        where = str(part.relative_to(root)) if part != root else root.name
        found.fault(f"folders with {no_labels(part, files, part / folder)}", where)
    for stem, sources in images.items():
        if len(sources) > 1:
            found.fault("images of equal names but for the ending: rename one", stem)
        first = Path(stem).parts[0].lower()
        nested = WORDS.get(first) if len(Path(stem).parts) > 1 else None
        yield Item(
            str(sources[0].relative_to(root)),
            sources[0],
            split=split or nested,
            labels={kind: own[stem][0] for kind, own in labels.items() if stem in own},
        )


def _is_read(file: Path, name: str, found: Problems) -> bool:
    if is_picture(file):
        return True
    if file.suffix.lower() in _UNREAD_FORMATS:
        found.note("pictures in formats that are not read, left out: save as JPEG or PNG", name)
    else:
        found.note("files that are no pictures, left out", name)
    return False
