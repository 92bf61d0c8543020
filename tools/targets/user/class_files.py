"""Files that name the classes of pixels in masks, by their ids or by their colours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from memory.errors import DataError
from memory.yaml_text import parse_yaml
from prompts.own_words import plain, value_of
from tools.targets.user.pictures import COLOUR

COLOUR_FILES = ("classes.csv", "class_dict.csv", "labelmap.txt", "label_colors.txt")
_ADE_FILE = "objectInfo150.txt"
CLASS_FILES = (
    "classes.txt", "classes.json", "classes.yaml", "classes.yml", "data.yaml", _ADE_FILE,
)  # fmt: skip
_VOID_NAMES = ("void", "ignore", "ignored", "unlabelled", "unlabeled")
_COLOUR = re.compile(r"(?<![\d.])(\d{1,3})[,;\s]+(\d{1,3})[,;\s]+(\d{1,3})(?![\d.])")


def class_file(root: Path) -> dict[int, str] | None:
    """Read the names of ids or of colours in masks."""
    path = next((root / name for name in COLOUR_FILES if (root / name).is_file()), None)
    if path is not None:
        return read_colours(path)
    path = next((root / name for name in CLASS_FILES if (root / name).is_file()), None)
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
            _ade_names(text)
            if path.name == _ADE_FILE
            else [line.strip() for line in text.splitlines() if line.strip()]
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


def _ade_names(text: str) -> dict[int, str]:
    """Read the columns Idx and Name of ADE20K; of several names the first. 0 is void."""
    rows = [line.split("\t") for line in text.splitlines()[1:] if line.strip()]
    return {0: "void"} | {int(row[0]): row[-1].split(",")[0].strip() for row in rows}


def named(values: Any) -> dict[int, str]:
    """Read [name, ...], {id: name}, {name: id} or {"names": any of these} as names by id.

    Several ids may be void and, in a mapping, have one name, which makes them one class. Raises
    ValueError that says what is wrong.
    """
    if isinstance(values, dict) and "names" in values:
        values = values["names"]
    if isinstance(values, list):
        names = dict(enumerate(str(v) for v in values))
    else:
        pairs = values.items()
        by_name = all(isinstance(v, int) for _, v in pairs)
        names = {int(v if by_name else k): str(k if by_name else v) for k, v in pairs}
    if not names:
        raise ValueError("it is empty")
    first: dict[str, str] = {}
    listed: set[str] = set()
    for number, name in names.items():
        word = value_of(name)
        if not word:
            raise ValueError(f"the name of {number} has no letter or digit")
        if is_void(name):
            continue
        if first.setdefault(word, name) != name:
            raise ValueError(f"{first[word]!r} and {name!r} read alike")
        if isinstance(values, list) and word in listed:
            raise ValueError(f"{name!r} is there twice")
        listed.add(word)
    return names


def is_void(name: str) -> bool:
    """Tell whether a class is called so that its pixels do not count."""
    return plain(name).lower() in _VOID_NAMES
