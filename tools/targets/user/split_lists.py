"""Lists of the photographs of a split, as ImageSets/Segmentation/val.txt of PASCAL VOC."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tools.targets.splits import WORDS
from tools.targets.user.loading import Item
from tools.targets.user.pictures import is_picture, picture_stems
from tools.targets.user.problems import Problems

# Where lists lie below the data; of these the first that has some.
_FOLDERS = ("ImageSets/Segmentation", "ImageSets/Main", "ImageSets", "splits", "lists", "meta", "")


def split_lists(root: Path, files: Sequence[Path]) -> dict[Path, list[str]]:
    """Return the lists of a folder with the names in them; {} where they name no pictures.

    A list is called as a split, is there beside another one, and begins each line with a name.
    """
    named = [f for f in files if f.suffix.lower() == ".txt" and f.stem.lower() in WORDS]
    if not named:
        return {}
    stems = picture_stems(files)
    for folder in _FOLDERS:
        lists = {file: _names(file, stems) for file in named if file.parent == root / folder}
        if len(lists) > 1 and all(lists.values()):
            return lists
    return {}


def _names(file: Path, stems: set[str]) -> list[str]:
    """Return the names in a list, [] where it is none of pictures."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    names = [line.strip() for line in lines if line.strip()]
    names = [name if _stem(name) in stems else name.split()[0] for name in names]
    n_known = sum(_stem(name) in stems for name in names)
    return names if n_known * 2 > len(names) else []


def _stem(name: str) -> str:
    path = Path(name.replace("\\", "/"))
    return path.stem if is_picture(path) else path.name


def with_lists(
    root: Path, items: Sequence[Item], lists: Mapping[Path, Sequence[str]], found: Problems
) -> list[Item]:
    """Give photographs the split of the list that names them, by path or by file name."""
    if not lists:
        return list(items)
    known: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        parts = Path(item.name).with_suffix("").parts
        for start in range(len(parts)):
            known["/".join(parts[start:])].append(index)
    words: dict[int, str] = {}
    for file, names in lists.items():
        listed = str(file.relative_to(root))
        word = WORDS[file.stem.lower()]
        for name in names:
            path = Path(name.replace("\\", "/"))
            stem = path.with_name(_stem(name))
            places = known.get(str(stem)) or known.get(stem.name, [])
            if len(places) > 1:
                found.fault(f"names in {listed} that fit several pictures: write FOLDER/NAME", name)
            for place in places[:1]:
                if words.setdefault(place, word) != word:
                    found.fault("pictures that the lists of two splits name", items[place].name)
    found.note(f"splits are read from {', '.join(str(f.relative_to(root)) for f in lists)}")
    return [replace(item, split=item.split or words.get(i)) for i, item in enumerate(items)]
