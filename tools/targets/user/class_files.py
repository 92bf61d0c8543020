"""Files with the class names of masks by id or colour, such as classes.txt."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from memory.yaml_text import parse_yaml
from prompts.user_vocabulary import plain, value_of
from tools.targets.user.label_files import COLOUR
from tools.targets.validation import refusal

COLOUR_FILES = ("classes.csv", "class_dict.csv", "labelmap.txt", "label_colors.txt")
_ADE_FILE = "objectInfo150.txt"
CLASS_FILES = (
    "classes.txt", "classes.json", "classes.yaml", "classes.yml", "data.yaml", _ADE_FILE,
)  # fmt: skip
_VOID_NAMES = ("void", "ignore", "ignored", "unlabelled", "unlabeled")
_AROUND = ' ,;:\t"'
_COLOUR = re.compile(r"(?<![\w.])(\d{1,3})[,;\s]+(\d{1,3})[,;\s]+(\d{1,3})(?![\d.])")
_NUMBERED = re.compile(r"(\d+)(?:\s*[:,;=]\s*|\.?\s+)(.*\w.*)")


def read_class_file(root: Path) -> dict[int, str] | None:
    """Return class names by id or colour from the first such file in `root`, or None.

    Raises:
        DataError: The file cannot be read; the message lists the valid formats.
    """
    for name in (*COLOUR_FILES, *CLASS_FILES):
        path = root / name
        if not path.is_file():
            continue
        form = (
            "NAME,RED,GREEN,BLUE on each line, the colour as three numbers of 0 to 255"
            if name in COLOUR_FILES
            else "a name a line, a list, or a mapping of ids and names; colours are those of "
            f"{COLOUR_FILES[0]}, NAME,RED,GREEN,BLUE on each line"
        )
        try:
            return names_by_id(_parse(path))
        except (OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
            raise refusal("class-file", path=path, error=error, form=form) from error
    return None


def _parse(path: Path) -> Any:
    content = path.read_text("utf-8-sig")
    if path.name in COLOUR_FILES:
        return _colour_names(content)
    if path.name == _ADE_FILE:  # columns Idx and Name, of which the first name is used
        rows = [line.split("\t") for line in content.splitlines()[1:] if line.strip()]
        return {0: "void"} | {int(row[0]): row[-1].split(",")[0].strip() for row in rows}
    if path.suffix == ".txt":
        lines = [line.strip() for line in content.splitlines() if line.strip()]
        numbered = [_NUMBERED.fullmatch(line) for line in lines]
        by_id = {int(match[1]): match[2] for match in numbered if match}
        # If every name follows a number, the number is its id, as in 0 sky.
        return by_id if len(by_id) == len(lines) else lines
    return json.loads(content) if path.suffix == ".json" else parse_yaml(content, as_text=True)


def _colour_names(content: str) -> dict[int, str]:
    """Return names by colour; other content of a line, as in CVAT files, is ignored."""
    names: dict[int, str] = {}
    lines = [line for line in content.splitlines() if line.strip() and not line.startswith("#")]
    columns = _colour_columns(lines[0]) if lines else None
    for line in lines:
        if parts := _split_colour(line, columns):
            red, green, blue = parts[1]
            if max(parts[1]) < 256:
                names[COLOUR + (red << 16) + (green << 8) + blue] = parts[0]
    return names


def _colour_columns(header: str) -> tuple[str, list[int]] | None:
    """Return the separator of a header and the columns of name, red, green, blue, or None."""
    for separator in ",;\t":
        cells = [cell.strip(' "').lower() for cell in header.split(separator)]
        places = [
            next((i for i, cell in enumerate(cells) if cell in known), None)
            for known in (("name", "class", "label"), ("r", "red"), ("g", "green"), ("b", "blue"))
        ]
        if None not in places:
            return separator, [place for place in places if place is not None]
    return None


def _split_colour(line: str, columns: tuple[str, list[int]] | None) -> tuple[str, list[int]] | None:
    """Return the name and the colour of a line, None without a colour.

    Without a header, the first three consecutive numbers are the colour, as a name may end in
    digits. A number before the name is its id.
    """
    if columns:
        cells = [cell.strip(_AROUND) for cell in line.split(columns[0])]
        parts = [cells[place] for place in columns[1] if place < len(cells)]
        is_colour = len(parts) == len(columns[1]) and all(cell.isdecimal() for cell in parts[1:])
        return (parts[0], [int(cell) for cell in parts[1:]]) if is_colour else None
    for separator in ",;\t":
        cells = [cell.strip(' "') for cell in line.split(separator)]
        for i in range(len(cells) - 2):
            if all(re.fullmatch(r"\d{1,3}", cell) for cell in cells[i : i + 3]):
                words = [cell for cell in cells[:i] if not cell.isdecimal()] or cells[:i]
                if not words and len(cells) > i + 3 and cells[i + 3].isdecimal():
                    raise ValueError(f"four numbers before a name, {line.strip()!r}: add a header")
                name = separator.join(words) or separator.join(cells[i + 3 :])
                return name.strip(_AROUND), [int(cell) for cell in cells[i : i + 3]]
    if match := _COLOUR.search(line):
        before, after = (
            part.strip(_AROUND) for part in (line[: match.start()], line[match.end() :])
        )
        return before or after, [int(byte) for byte in match.groups()]
    return None


def names_by_id(values: Any) -> dict[int, str]:
    """Convert [name, ...], {id: name}, {name: id} or {"names": any of these} to names by id.

    Several ids may be void or, in a mapping, share a name, which makes them one class.

    Raises:
        ValueError: A name cannot be used.
    """
    if isinstance(values, dict) and "names" in values:
        values = values["names"]
    pairs = list(enumerate(values) if isinstance(values, list) else values.items())
    if not all(_is_number(key) for key, _ in pairs) and all(_is_number(v) for _, v in pairs):
        pairs = [(number, name) for name, number in pairs]
    if odd := [n for _, n in pairs if isinstance(n, bool) or not isinstance(n, str | int | float)]:
        raise ValueError(f"{odd[0]!r} is no name: write names in quotes")
    names = {int(number): str(name) for number, name in pairs}
    if not names:
        raise ValueError("it is empty")
    first: dict[str, str] = {}
    for number, name in names.items():
        word = value_of(name)
        if not word:
            raise ValueError(f"the name of {number} has no letter or digit")
        if is_void(name):
            continue
        if isinstance(values, list) and word in first and first[word] == name:
            raise ValueError(f"{name!r} is there twice")
        if first.setdefault(word, name) != name:
            raise ValueError(f"{first[word]!r} and {name!r} read alike")
    return names


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and re.fullmatch(r"\d+", str(value)) is not None


def is_void(name: str) -> bool:
    """Return whether a class name denotes pixels to ignore."""
    return plain(name).lower() in _VOID_NAMES
