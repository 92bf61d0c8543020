"""The target `folder`: a user's own data, as class folders or as images with labels of pixels.

PATH/CLASS/*.png               class folders, or PATH/{train,val,test}/CLASS/*.png
PATH/images/*.jpg              with masks/*.png (ids), depth/*.png or .npy, normals/*.png of
                               the same names; also PATH/{train,val,test}/images/...
PATH/attributes.csv            first column: file name; split, group; other columns: attributes
PATH/classes.txt, .json, .yaml names of the ids in masks
PATH/classes.csv               name,red,green,blue: names of the colours in masks

Other usual names of these folders are known too, as JPEGImages with SegmentationClass, and labels
that are named as their image but for a word, as x_mask.png.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from memory.errors import DataError
from memory.yaml_text import parse_yaml
from prompts.own_words import plain, value_of
from tools.targets._deal import WORDS
from tools.targets._photos import Item, Photos, cached, options_of, read_photos
from tools.targets._pictures import COLOUR, SUFFIXES
from tools.targets._problems import Problems

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_KINDS = {"masks": "segmentation", "depth": "depth", "normals": "normals"}
_FOLDER_OF = {"images": "images", "segmentation": "masks", "depth": "depth", "normals": "normals"}
_FOLDERS = "masks/, depth/ or normals/"
_TABLE = "attributes.csv"
_COLOUR_FILES = ("classes.csv", "class_dict.csv", "labelmap.txt", "label_colors.txt")
_COLOUR = re.compile(r"(?<![\d.])(\d{1,3})[,;\s]+(\d{1,3})[,;\s]+(\d{1,3})(?![\d.])")
_CLASS_FILES = ("classes.txt", "classes.json", "classes.yaml", "classes.yml", "data.yaml")
_TABLE_SUFFIXES = (".csv", ".tsv", ".xls", ".xlsx", ".txt", ".json", ".yaml", ".yml", ".xml")
_DOCUMENTS = ("readme", "license", "licence", "notice")
_UNREAD_FORMATS = (
    ".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".nef", ".arw", ".raw", ".svg",
)  # fmt: skip
# Names under which other programs keep images and their labels side by side.
_IMAGE_FOLDERS = (
    "images", "image", "imgs", "img", "photos", "photo", "pictures", "rgb", "jpegimages", "frames",
)  # fmt: skip
_LABEL_FOLDERS = {
    "segmentation": (
        "masks", "mask", "labels", "label", "annotations", "annotation", "annot", "segmentation",
        "segmentations", "segmentationclass", "seg", "gt", "groundtruth", "ground_truth",
    ),
    "depth": ("depth", "depths", "depth_maps"),
    "normals": ("normals", "normal"),
}  # fmt: skip
# Words that are put before or after the name of an image, or of its labels.
_AFFIXES = (
    "image|img|photo|picture|rgb|leftimg8bit|mask|label|labels|labelids|gt|gtfine|ground_truth|seg|"
    "segmentation|annotation|depth|normal|normals"
)
_AFFIX = re.compile(rf"^(?:{_AFFIXES})[ _.-]+(?=.)|(?<=.)[ _.-]+(?:{_AFFIXES})$", re.IGNORECASE)
_LAYOUTS = (
    "Expected PATH/CLASS/*.png (a folder for each class), or PATH/images/ with PATH/masks/, "
    "PATH/depth/ or PATH/normals/; see docs/own-data.md."
)


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
    if not root.is_dir():
        what = "; it is a file" if root.exists() else ""
        raise DataError(f"There is no folder {root}{what}. {_LAYOUTS}")
    _refuse_other_kinds(root)
    options = options_of(task, size, void, depth_scale, flips, seed)
    name = name or own_name(root)
    files = sorted(file for file in root.rglob("*") if file.is_file() and not _hidden(file, root))
    stats = [(file, file.stat()) for file in files]
    key = [
        str(options),
        [[str(f.relative_to(root)), s.st_size, s.st_mtime_ns] for f, s in stats],
    ]

    def read() -> Photos:
        found = Problems()
        items, names = _scan(root, files, found)
        return read_photos(name, str(root), items, options.with_names(names), cache_dir, found)

    return cached(name, key, cache_dir, read, str(root))


def _refuse_other_kinds(root: Path) -> None:
    """Raise DataError for data that another target reads."""
    saved = (root / "dataset_dict.json").is_file() or any(root.glob("*.arrow"))
    listed = [*root.glob("metadata.jsonl"), *root.glob("*/metadata.jsonl")]
    kind = ""
    if (root / "trainannot").is_dir() and (root / "train").is_dir():
        kind = "camvid"
    elif (
        saved
        or listed
        or (any(root.glob("*.parquet")) and not any(map(_is_folder, root.iterdir())))
    ):
        kind = "hf"
    if kind:
        known = {"hf": "the library datasets saves them", "camvid": "CamVid has them"}[kind]
        raise DataError(f"The files in {root} lie as {known}: say --target '{kind}:{root}'.")


def own_name(path: Path) -> str:
    """Return a name for the data at a path: the last part of it and a digest of all."""
    where = hashlib.sha256(str(path.expanduser().resolve()).encode()).hexdigest()
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in path.stem).strip("-")
    return f"{stem[:40] or 'data'}-{where[:6]}"


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith((".", "__")) for part in file.relative_to(root).parts)


def _is_folder(path: Path) -> bool:
    """Tell whether a path is a folder of the user's, none that a system or program has left."""
    return path.is_dir() and not path.name.startswith((".", "__"))


@dataclass(frozen=True)
class _Row:
    """What the table says of one photograph."""

    split: str | None
    group: str | None
    attributes: Mapping[str, str]


def _scan(
    root: Path, files: Sequence[Path], found: Problems
) -> tuple[list[Item], Mapping[int, str] | None]:
    """List the photographs of either layout with all that is said of them."""
    folders = {child.name for child in root.iterdir() if _is_folder(child)}
    parts: list[tuple[str | None, Path]] = [(None, root)]
    if folders and all(name.lower() in WORDS for name in folders):
        parts = [(WORDS[name.lower()], root / name) for name in sorted(folders)]
    elif len(splits := sorted(name for name in folders if name.lower() in WORDS)) > 1:
        others = sorted(folders - set(splits))
        raise DataError(
            f"Of the folders in {root}, {', '.join(splits)} are named like splits and "
            f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} not. Known splits are "
            f"{', '.join(WORDS)}: rename the others, or take them out."
        )
    roles = [_roles(part, [f for f in files if f.is_relative_to(part)]) for _, part in parts]
    layouts = [bool(own) for own in roles]
    if any(layouts) and not all(layouts):
        raise DataError(
            f"Some splits of {root} have a folder images/ and others do not. {_LAYOUTS}"
        )
    items: list[Item] = []
    for (split, part), role_of in zip(parts, roles, strict=True):
        own = [file for file in files if file.is_relative_to(part)]
        if not layouts[0]:
            _check_class_folders(root, part, own)
            items += _scan_classes(root, part, split, own, found)
        else:
            items += _scan_images(root, part, split, own, role_of, found)
        _note_tables(root, part, own, layouts[0], found)
    if not items:
        found.stop(str(root))
        also = "".join(f"\n- (also) {line}" for line in found.said())
        raise DataError(f"No pictures of a class or with labels are in {root}. {_LAYOUTS}{also}")
    if layouts[0] and not any(item.labels for item in items):
        found.stop(str(root))
    table = root / _TABLE
    if table.is_file():
        items = _with_table(items, _read_table(table, found), found)
    return items, _class_file(root) if layouts[0] else None


def _roles(part: Path, files: Sequence[Path]) -> dict[str, str]:
    """Return what the folders of a part hold: "images", or a kind of labels; {} for classes.

    Raises DataError where several may be meant.
    """
    folders = {f.name: f.name.lower() for f in part.iterdir() if _is_folder(f)}
    full = {
        file.relative_to(part).parts[0]
        for file in files
        if file.suffix.lower() in (*SUFFIXES, ".npy") and file.parent != part
    }
    roles: dict[str, str] = {}
    usual = {"images": "images", **_KINDS}
    for kind, names in {"images": _IMAGE_FOLDERS, **_LABEL_FOLDERS}.items():
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
    labels = {name for known in _LABEL_FOLDERS.values() for name in known}
    return bool(labels & set(names)) and bool(set(_IMAGE_FOLDERS) & set(names))


def _check_class_folders(root: Path, part: Path, files: Sequence[Path]) -> None:
    """Refuse folders that hold something else than a class each, as far as their names tell."""
    folders = {f.name.lower(): f for f in part.iterdir() if _is_folder(f)}
    _refuse_side_by_side(root, files)
    if len(folders) == 1:
        (only,) = folders.values()
        inside = sorted(f.name for f in only.iterdir() if _is_folder(f))
        if len(inside) > 1:
            raise DataError(
                f"{part} holds one folder, {only.name}/, with the folders {', '.join(inside[:5])}"
                f"{', ...' if len(inside) > 5 else ''}. If these are the classes or splits, give "
                f"--target 'folder:{only}'."
            )


def _refuse_side_by_side(root: Path, files: Sequence[Path]) -> None:
    """Raise DataError where images and their labels are in one folder, as x.jpg and x_mask.png."""
    pictures = {file.with_suffix(""): file for file in files if file.suffix.lower() in SUFFIXES}
    pairs = [
        (image, file)
        for stem, file in pictures.items()
        if (image := pictures.get(stem.with_name(_bare(stem.name)))) not in (None, file)
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


def _bare(name: str) -> str:
    """Return the name of an image or of its labels without words such as image or mask."""
    while (short := _AFFIX.sub("", name)) != name:
        name = short
    return name


def _note_tables(
    root: Path, part: Path, files: Sequence[Path], with_images: bool, found: Problems
) -> None:
    """Note tables and lists beside the folders of a part that lie where nothing reads them."""
    known = {root / name for name in (*_COLOUR_FILES, *_CLASS_FILES)}
    read = {root / _TABLE} | (known if with_images else set())
    names = "names of ids in masks from PATH/classes.txt" if with_images else "classes from folders"
    for file in files:
        if (
            file.parent in (root, part)
            and file not in read
            and file.suffix.lower() in _TABLE_SUFFIXES
            and not file.stem.lower().startswith(_DOCUMENTS)
        ):
            found.note(
                f"files that are not read (attributes come from PATH/{_TABLE}, {names})",
                str(file.relative_to(root)),
            )


def _scan_classes(
    root: Path, part: Path, split: str | None, files: Sequence[Path], found: Problems
) -> Iterator[Item]:
    words: dict[str, str] = {}
    by_class: dict[str, list[Path]] = {
        child.name: [] for child in sorted(part.iterdir()) if _is_folder(child)
    }
    for file in files:
        inside = file.relative_to(part).parts
        name = str(file.relative_to(root))
        if len(inside) > 1 and _is_picture(file, name, found):
            by_class[inside[0]].append(file)
            if len(inside) > 2:
                found.note("pictures in folders within a class folder, which belong to it", name)
        elif len(inside) == 1 and file.suffix.lower() in SUFFIXES:
            found.note("pictures in no class folder, left out", name)
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


def _scan_images(
    root: Path,
    part: Path,
    split: str | None,
    files: Sequence[Path],
    role_of: Mapping[str, str],
    found: Problems,
) -> Iterator[Item]:
    for folder, kind in role_of.items():
        if folder not in ("images", *_KINDS):
            found.note(f"{'masks' if kind == 'segmentation' else kind} are read from {folder}/")
    labels: dict[str, dict[str, list[Path]]] = {kind: defaultdict(list) for kind in _KINDS.values()}
    images: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        folder, *inside = file.relative_to(part).parts
        if not inside:
            if file.suffix.lower() in SUFFIXES:
                found.note("pictures outside of images/, left out", file.name)
            continue
        stem = str(Path(*inside).with_suffix(""))
        name = str(file.relative_to(root))
        role = role_of.get(folder, "")
        if role == "images" and _is_picture(file, name, found):
            images[stem].append(file)
        elif role in labels and (file.suffix == ".npy" or _is_picture(file, name, found)):
            labels[role][stem].append(file)
        elif not role:
            found.note(f"files in {folder}/, which is not images/, {_FOLDERS}, left out", name)
    for kind, own in labels.items():
        if own and images and not own.keys() & images.keys():
            labels[kind] = own = _joined_by_bare_names(kind, own, images, found)
        if own and images and not own.keys() & images.keys():
            label, image = min(own.values())[0], min(images.values())[0]
            found.fault(
                f"files of {kind} are named unlike every image, e.g. {label.name!r} and "
                f"{image.name!r}: give an image and its labels one name, but for the ending",
                str(label.relative_to(root)),
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
    if not any(labels.values()):
        beside = sorted(f.name for f in part.iterdir() if _is_folder(f))
        found.fault(
            f"{part}/images has no labels of pixels beside it, in {_FOLDERS} (there is: "
            f"{', '.join(f'{name}/' for name in beside)}): rename their folder so. {_LAYOUTS}"
        )
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


def _joined_by_bare_names(
    kind: str, own: dict[str, list[Path]], images: Mapping[str, list[Path]], found: Problems
) -> dict[str, list[Path]]:
    """Return labels by the names of their images, where these differ by words such as mask."""

    def bare(stem: str) -> str:
        return str(Path(stem).with_name(_bare(Path(stem).name)))

    by_bare = {bare(stem): stem for stem in images}
    if len(by_bare) < len(images) or not any(bare(stem) in by_bare for stem in own):
        return own
    joined: dict[str, list[Path]] = defaultdict(list)
    for stem, sources in own.items():
        joined[by_bare.get(bare(stem), stem)] += sources
    stem, (label, *_) = next((s, f) for s, f in joined.items() if s in images)
    found.note(
        f"files of {kind} are named as their image but for a word, as {label.name!r} and "
        f"{images[stem][0].name!r}"
    )
    return joined


def _is_picture(file: Path, name: str, found: Problems) -> bool:
    if file.suffix.lower() in SUFFIXES:
        return True
    if file.suffix.lower() in _UNREAD_FORMATS:
        found.note("pictures in formats that are not read, left out: save as JPEG or PNG", name)
    else:
        found.note("files that are no pictures, left out", name)
    return False


def _read_table(path: Path, found: Problems) -> dict[str, _Row]:
    """Read the table of attributes: rows by file name."""
    try:
        text = path.read_text("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter) if any(line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as a table ({error}). Save it as UTF-8 CSV."
        ) from error
    if len(lines) < 2 or len(lines[0]) < 2:
        raise DataError(f"{path} holds no table: expected a line of column names, then lines.")
    head = [name.strip() for name in lines[0]]
    for column in sorted({name for name in head if head.count(name) > 1}):
        found.fault(f"columns that {_TABLE} has twice: keep one", column)
    rows: dict[str, _Row] = {}
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(head):
            found.fault(
                f"lines of {_TABLE} that have not {len(head)} cells as its head has: mend them",
                f"line {number}",
            )
            continue
        cells = dict(zip(head[1:], line[1:], strict=True))
        special = {name.lower(): name for name in cells if name.lower() in ("split", "group")}
        word = cells.pop(special.get("split", ""), "").strip().lower()
        group = cells.pop(special.get("group", ""), "").strip()
        if word and word not in WORDS:
            found.fault(f"unknown splits (known: {', '.join(WORDS)})", word)
        name = _composed(line[0].strip().replace("\\", "/").removeprefix("./"))
        if name in rows:
            found.fault(f"files that {_TABLE} names twice: keep one line", name)
        if delimiter == ";":
            cells = {column: _with_point(text) for column, text in cells.items()}
        rows[name] = _Row(WORDS.get(word), group or None, cells)
    return rows


def _composed(name: str) -> str:
    """Return a file name as NFC, so that those of two file systems are equal."""
    return unicodedata.normalize("NFC", name)


def _with_point(text: str) -> str:
    """Return a number with a decimal comma as one with a point, any other text as it is."""
    return text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text.strip()) else text


def _with_table(items: Sequence[Item], rows: Mapping[str, _Row], found: Problems) -> list[Item]:
    """Join photographs and table by path, by file name or by name without ending."""
    known: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        path = Path(_composed(item.name))
        inner = Path(*path.parts[1:])
        paths = {path, inner, Path(path.name)} - {Path()}
        for name in {str(p) for p in paths} | {str(p.with_suffix("")) for p in paths}:
            known[name].append(index)
    joined = list(items)
    used: dict[int, str] = {}
    for name, row in rows.items():
        places = known.get(name, [])
        if not places:
            found.note(f"files of {_TABLE} that are not there", name)
        elif len(places) > 1:
            found.fault(f"names in {_TABLE} that fit several pictures: write FOLDER/NAME", name)
        else:
            place = places[0]
            if used.setdefault(place, name) != name:
                found.fault(
                    f"pictures that two lines of {_TABLE} name: keep one", items[place].name
                )
            joined[place] = replace(
                items[place],
                split=row.split or items[place].split,
                group=row.group,
                attributes=row.attributes,
            )
    if not used:
        found.fault(
            f"no line of {_TABLE} fits a picture; its first column must hold file names, such as "
            f"{items[0].name!r}",
            next(iter(rows), None),
        )
    for place, item in enumerate(items):
        if used and place not in used:
            found.note(f"pictures that {_TABLE} does not name", item.name)
    return joined


def _class_file(root: Path) -> dict[int, str] | None:
    """Read the names of ids or of colours in masks."""
    path = next((root / name for name in _COLOUR_FILES if (root / name).is_file()), None)
    if path is not None:
        return read_colours(path)
    path = next((root / name for name in _CLASS_FILES if (root / name).is_file()), None)
    return None if path is None else read_classes(path)


def read_colours(path: Path) -> dict[int, str]:
    """Return class names by colour (`_pictures.COLOUR`) of lines of a name and red, green, blue.

    Anything else that stands in a line, as in the files of CVAT, is passed over.
    """
    names: dict[int, str] = {}
    try:
        for line in path.read_text("utf-8-sig").splitlines():
            match = None if line.startswith("#") else _COLOUR.search(line)
            if match and all(int(byte) < 256 for byte in match.groups()):
                red, green, blue = map(int, match.groups())
                said = line[: match.start()].strip(' ,;:\t"') or line[match.end() :]
                names[COLOUR + (red << 16) + (green << 8) + blue] = said.strip(' ,;:\t"')
        return named(names)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} names no colours of classes ({error}). Expected lines of a name and its "
            "colour as three numbers of 0 to 255: NAME,RED,GREEN,BLUE."
        ) from error


def read_classes(path: Path) -> dict[int, str]:
    """Return class names by id; raises DataError that says which forms there are."""
    try:
        text = path.read_text("utf-8-sig")
        values: Any = (
            [line.strip() for line in text.splitlines() if line.strip()]
            if path.suffix == ".txt"
            else json.loads(text)
            if path.suffix == ".json"
            else parse_yaml(text)
        )
        return named(values)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise DataError(
            f"{path} names no classes ({error}). Expected a name a line, a list, or a mapping of "
            "ids and names."
        ) from error


def named(values: Any) -> dict[int, str]:
    """Read [name, ...], {id: name}, {name: id} or {"names": any of these} as names by id."""
    if isinstance(values, dict) and "names" in values:
        values = values["names"]
    if isinstance(values, list):
        names = dict(enumerate(str(v) for v in values))
    else:
        pairs = values.items()
        by_name = all(isinstance(v, int) for _, v in pairs)
        names = {int(v if by_name else k): str(k if by_name else v) for k, v in pairs}
    words = [value_of(name) for name in names.values()]
    if not names or "" in words or len(set(words)) < len(words):
        raise ValueError("names must be different words")
    return names
