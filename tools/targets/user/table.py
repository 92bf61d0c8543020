"""The table attributes.csv of a folder: splits, groups and attributes of its photographs."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memory.errors import DataError
from prompts.own_words import plain
from tools.targets.splits import WORDS
from tools.targets.user.loading import Item
from tools.targets.user.pictures import is_picture
from tools.targets.user.problems import Problems

TABLE = "attributes.csv"
_SPECIAL = ("split", "group", "class")
_SEPARATOR = re.compile(r"sep=(.)\r?\n")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


@dataclass(frozen=True)
class Row:
    """What the table says of one photograph."""

    split: str | None
    group: str | None
    class_name: str
    attributes: Mapping[str, str]


def table_file(root: Path) -> Path | None:
    """Return the table of a folder, in whatever case its name is written; None without one."""
    exact = root / TABLE
    others = (file for file in sorted(root.iterdir()) if file.name.lower() == TABLE)
    return exact if exact.is_file() else next((file for file in others if file.is_file()), None)


def table_columns(path: Path) -> list[str]:
    """Return the names of a table's columns."""
    return _lines(path, Problems())[0][0]


def _lines(path: Path, found: Problems) -> tuple[list[list[str]], str]:
    """Return the cells of a table, its head first, and what parts them."""
    try:
        text = _text(path, found).replace("\r\n", "\n").replace("\r", "\n")
        said = _SEPARATOR.match(text)  # as spreadsheets write it
        text = text[said.end() :] if said else text
        delimiter = said[1] if said else max(",;\t", key=text.partition("\n")[0].count)
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter) if any(line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as a table ({error}). Save it as UTF-8 CSV."
        ) from error
    if lines and len(lines[0]) > 2 and not lines[0][0].strip():
        found.note(f"the first column of {TABLE} has no name and is left out, as it numbers rows")
        lines = [line[1:] for line in lines]
    if len(lines) < 2 or len(lines[0]) < 2:
        raise DataError(f"{path} holds no table: expected a line of column names, then lines.")
    return [[name.strip() for name in lines[0]], *lines[1:]], delimiter


def _text(path: Path, found: Problems) -> str:
    """Return the text of a table in UTF-8, in UTF-16 with its mark, or as Windows saves it."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252")
        found.note(f"{TABLE} is not in UTF-8 and read as Windows-1252: look at letters as ä and é")
        return text


def read_table(path: Path, found: Problems) -> dict[str, Row]:
    """Read the table of attributes: rows by file name."""
    (head, *lines), delimiter = _lines(path, found)
    for column in sorted({name for name in head if head.count(name) > 1}):
        found.fault(f"columns that {TABLE} has twice: keep one", column)
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 2):
        if len(line) != len(head):
            found.fault(
                f"lines of {TABLE} that have not {len(head)} cells as its head has: mend them",
                f"line {number}",
            )
            continue
        cells = dict(zip(head[1:], line[1:], strict=True))
        special = {name.lower(): name for name in cells if name.lower() in _SPECIAL}
        word = cells.pop(special.get("split", ""), "").strip().lower()
        group = cells.pop(special.get("group", ""), "").strip()
        class_name = plain(cells.get(special.get("class", ""), ""))
        if word and word not in WORDS:
            found.fault(f"unknown splits (known: {', '.join(WORDS)})", word)
        name = _composed(line[0].strip().replace("\\", "/").removeprefix("./"))
        if name in rows:
            found.fault(f"files that {TABLE} names twice: keep one line", name)
        if delimiter == ";":
            cells = {column: _with_point(text) for column, text in cells.items()}
        rows[name] = Row(WORDS.get(word), group or None, class_name, cells)
    return rows


def with_table(items: Sequence[Item], rows: Mapping[str, Row], found: Problems) -> list[Item]:
    """Join photographs and table by path, by file name or by name without ending.

    A name that is not there may have other folders before it, another case or another ending.
    """
    known: dict[str, list[int]] = defaultdict(list)
    bare: dict[str, set[int]] = defaultdict(set)
    whole: dict[str, set[int]] = defaultdict(set)
    for index, item in enumerate(items):
        path = Path(_composed(item.name))
        inner = Path(*path.parts[1:])
        paths = {path, inner, Path(path.name)} - {Path()}
        for name in {str(p) for p in paths} | {str(p.with_suffix("")) for p in paths}:
            known[name].append(index)
        for own in paths:
            bare[_bare(own)].add(index)
        whole[_bare(path)].add(index)
    joined = list(items)
    used: dict[int, str] = {}
    for name, row in rows.items():
        places = known.get(name, [])
        if not places and (near := _near(Path(name), bare, whole)):
            places = near
            found.note(f"files of {TABLE} that are found, but for folders, case or ending", name)
        if not places:
            found.note(f"files of {TABLE} that are not there", name)
        elif len(places) > 1:
            found.fault(f"names in {TABLE} that fit several pictures: write FOLDER/NAME", name)
        else:
            place = places[0]
            if used.setdefault(place, name) != name:
                found.fault(f"pictures that two lines of {TABLE} name: keep one", items[place].name)
            item = items[place]
            attributes = dict(row.attributes)
            if item.class_name is None and not item.labels:
                attributes = {k: v for k, v in attributes.items() if k.lower() != "class"}
                item = replace(item, class_name=row.class_name or None)
            joined[place] = replace(
                item, split=row.split or item.split, group=row.group, attributes=attributes
            )
    if not used:
        found.fault(
            f"no line of {TABLE} fits a picture; its first column must hold file names, such as "
            f"{items[0].name!r}",
            next(iter(rows), None),
        )
    for place, item in enumerate(items):
        if used and place not in used:
            found.note(f"pictures that {TABLE} does not name", item.name)
    return joined


def _bare(path: Path) -> str:
    """Return a path without case and the ending of a picture."""
    named = path.with_suffix("") if is_picture(path) else path
    return str(named).casefold()


def _near(path: Path, bare: Mapping[str, set[int]], whole: Mapping[str, set[int]]) -> list[int]:
    """Return the pictures that a name means in another case, with another ending, or from afar."""
    own = _bare(path)
    afar = [_bare(Path(*path.parts[start:])) for start in range(1, len(path.parts))]
    return sorted(bare.get(own) or next((whole[name] for name in afar if name in whole), set()))


def _composed(name: str) -> str:
    """Return a file name as NFC, so that those of two file systems are equal."""
    return unicodedata.normalize("NFC", name)


def _with_point(text: str) -> str:
    """Return a number with a decimal comma as one with a point, any other text as it is."""
    return text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text.strip()) else text
