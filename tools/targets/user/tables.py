"""Text files about photographs: the table attributes.csv and split lists."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from memory.csv_text import unmark_cell
from prompts.user_vocabulary import is_blank, value_of
from tools.targets.splits import SPLIT_NAMES
from tools.targets.user.class_cells import ClassCells
from tools.targets.user.loading import Item
from tools.targets.user.names import paths_in
from tools.targets.user.pictures import composed, is_picture, picture_stems
from tools.targets.validation import ValidationReport, refusal

TABLE = "attributes.csv"
_SPECIAL = ("split", "group", "class")
_SEPARATOR = re.compile(r"sep=(.)\r?\n")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
# Folders of split lists below the data; the first with lists is used.
_LIST_FOLDERS = (
    "ImageSets/Segmentation", "ImageSets/Main", "ImageSets", "splits", "lists", "meta", "",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of the table: the owner's information about one photograph."""

    split: str | None
    group: str | None
    class_name: str
    attributes: Mapping[str, str]


def find_table(root: Path) -> Path | None:
    """Return the table of a folder, with case-insensitive name; None without one."""
    files = [file for file in paths_in(root) if file.name.lower() == TABLE and file.is_file()]
    return min(files, key=lambda file: (file.name != TABLE, file), default=None)


def table_columns(path: Path) -> list[str]:
    """Return the names of a table's columns."""
    return _read_cells(path, ValidationReport())[0][0]


def _read_cells(path: Path, report: ValidationReport) -> tuple[list[list[str]], str]:
    """Return the cells of a table, header first, and their delimiter."""
    try:
        text = _decode(path, report).replace("\r\n", "\n").replace("\r", "\n")
        separator = _SEPARATOR.match(text)  # written by spreadsheets
        text = text[separator.end() :] if separator else text
        delimiter = separator[1] if separator else max(",;\t", key=text.partition("\n")[0].count)
        rows = csv.reader(io.StringIO(text), delimiter=delimiter)
        lines = [[unmark_cell(cell) for cell in row] for row in rows if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise refusal("table-unreadable", path=path, error=error) from error
    if lines and len(lines[0]) > 2 and not lines[0][0].strip():
        report.warn("table-numbered")
        lines = [line[1:] for line in lines]
    if len(lines) < 2 or len(lines[0]) < 2:
        raise refusal("table-empty", path=path)
    return [[name.strip() for name in lines[0]], *lines[1:]], delimiter


def _decode(path: Path, report: ValidationReport) -> str:
    """Decode a table in UTF-8, in UTF-16 with byte order mark, or in Windows-1252."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252")
        report.warn("table-encoding")
        return text


def read_table(path: Path, report: ValidationReport) -> dict[str, Row]:
    """Read the table of attributes; return rows by file name."""
    (header, *lines), delimiter = _read_cells(path, report)
    names = [name.lower() if name.lower() in _SPECIAL else name for name in header]
    if twice := sorted(name for name, n in Counter(names).items() if n > 1):
        report.error("table-column-twice", *twice)
    rows: dict[str, Row] = {}
    classes = ClassCells()
    for number, line in enumerate(lines, 2):
        if len(line) != len(header):
            report.error("table-cells", f"line {number}", n=len(header))
            continue
        cells = dict(zip(header[1:], line[1:], strict=True))
        special = {name.lower(): name for name in cells if name.lower() in _SPECIAL}
        split = cells.pop(special.get("split", ""), "").strip().lower()
        group = cells.pop(special.get("group", ""), "").strip()
        split, group = ("" if is_blank(cell) else cell for cell in (split, group))
        class_name = classes.read(cells.get(special.get("class", ""), ""))
        if split and split not in SPLIT_NAMES:
            report.error("unknown-split", split, known=", ".join(SPLIT_NAMES))
        name = composed(line[0].strip().replace("\\", "/").removeprefix("./"))
        if name in rows:
            report.error("table-row-twice", name)
        if delimiter == ";":
            cells = {
                column: text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text.strip()) else text
                for column, text in cells.items()
            }
        rows[name] = Row(SPLIT_NAMES.get(split), group or None, class_name, cells)
    classes.check(report)
    return rows


def join_table(
    items: Sequence[Item], rows: Mapping[str, Row], report: ValidationReport
) -> list[Item]:
    """Join photographs and table by path, by file name or by name without suffix.

    Names without a match may differ in leading folders, case or suffix.
    """
    exact: dict[str, list[int]] = defaultdict(list)
    bare: dict[str, set[int]] = defaultdict(set)
    bare_paths: dict[str, set[int]] = defaultdict(set)
    for index, item in enumerate(items):
        path = Path(composed(item.name))
        paths = {path, Path(*path.parts[1:]), Path(path.name)} - {Path()}
        for name in {str(p) for p in paths} | {str(p.with_suffix("")) for p in paths}:
            exact[name].append(index)
        for p in paths:
            bare[_bare(p)].add(index)
        bare_paths[_bare(path)].add(index)

    def nearest(name: str) -> list[int]:
        path = Path(name)
        shorter = [_bare(Path(*path.parts[start:])) for start in range(1, len(path.parts))]
        by_end = next((bare_paths[p] for p in shorter if p in bare_paths), set())
        return sorted(bare.get(_bare(path)) or by_end)

    joined = list(items)
    named: dict[int, str] = {}
    for name, row in rows.items():
        fitting = exact.get(name, [])
        if not fitting and (fitting := nearest(name)):
            report.warn("table-near", name)
        if not fitting:
            report.warn("table-missing", name)
        elif len(fitting) > 1:
            report.error("table-ambiguous", name)
        else:
            (index,) = fitting
            item = items[index]
            if named.setdefault(index, name) != name:
                report.error("table-picture-twice", item.name)
            attributes = dict(row.attributes)
            if not item.labels:
                attributes = {k: v for k, v in attributes.items() if k.lower() != "class"}
                class_name = item.class_name or row.class_name or None
                if row.class_name and value_of(class_name or "") != value_of(row.class_name):
                    report.error("table-class", item.name)
                item = replace(item, class_name=class_name)
            joined[index] = replace(
                item, split=row.split or item.split, group=row.group, attributes=attributes
            )
    if not named:
        report.error("table-no-match", *list(rows)[:1], example=items[0].name)
    elif missing := [item.name for index, item in enumerate(items) if index not in named]:
        report.warn("table-not-named", *missing)
    return joined


def _bare(path: Path) -> str:
    """Return a case-folded path without the suffix of a picture."""
    return str(path.with_suffix("") if is_picture(path) else path).casefold()


def find_split_lists(root: Path, files: Sequence[Path]) -> dict[Path, list[str]]:
    """Return the names in split lists, such as ImageSets/Segmentation/val.txt of VOC, by file.

    A list is named as a split, has another list beside it, and each of its lines begins with the
    name of a picture. {} without such lists.
    """
    candidates = [f for f in files if f.suffix.lower() == ".txt" and f.stem.lower() in SPLIT_NAMES]
    stems = picture_stems(files) if candidates else set()
    for folder in _LIST_FOLDERS:
        lists = {
            file: _names_in(file, stems) for file in candidates if file.parent == root / folder
        }
        if len(lists) > 1 and all(lists.values()):
            return lists
    return {}


def _names_in(file: Path, stems: set[str]) -> list[str]:
    """Return the names in a list, [] if most do not belong to pictures."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    names = [composed(line.strip()) for line in lines if line.strip()]
    names = [name if _stem(name).name in stems else name.split()[0] for name in names]
    n_known = sum(_stem(name).name in stems for name in names)
    return names if n_known * 2 > len(names) else []


def _stem(name: str) -> Path:
    """Return a path without the suffix of a picture."""
    path = Path(name.replace("\\", "/"))
    return path.with_suffix("") if is_picture(path) else path


def join_split_lists(
    root: Path, items: Sequence[Item], lists: Mapping[Path, Sequence[str]], report: ValidationReport
) -> list[Item]:
    """Assign photographs the split of the list that names them, by path or by file name."""
    if not lists:
        return list(items)
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        parts = Path(composed(item.name)).with_suffix("").parts
        for start in range(len(parts)):
            by_name["/".join(parts[start:])].append(index)
    splits: dict[int, str] = {}
    for file, names in lists.items():
        split = SPLIT_NAMES[file.stem.lower()]
        for name in names:
            stem = _stem(name)
            fitting = by_name.get(str(stem)) or by_name.get(stem.name, [])
            if len(fitting) > 1:
                report.error("list-ambiguous", name, file=file.relative_to(root))
            for index in fitting[:1]:
                if splits.setdefault(index, split) != split:
                    report.error("list-contradiction", items[index].name)
    report.warn("split-lists", files=", ".join(str(file.relative_to(root)) for file in lists))
    return [replace(item, split=item.split or splits.get(i)) for i, item in enumerate(items)]
