"""Tables of recorded sessions, and a page that summarises them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.brains import planner_of
from agent.session.folder import folder_of, stored_settings
from eval.evidence import evidence
from eval.likeness import read_likeness
from eval.report.compare import build_evidence_html
from eval.tables import COLUMNS, Row, likeness_rows, tables
from memory.csv_text import write_csv
from memory.errors import SettingsError, unknown
from memory.events import Event, ForkedEvent
from memory.files import write_atomic, write_bytes
from memory.journal import read_events
from memory.user_folders import writing

FORMATS = ("csv", "parquet", "duckdb")


def read_session(home: Path, name: str) -> list[Event]:
    """Return the events of a session without undone ones; raises SettingsError if unknown."""
    stored_settings(home, name)
    return read_events(folder_of(home, name) / "journal.jsonl")


def collect(home: Path, names: Sequence[str]) -> dict[str, list[Row]]:
    """Return the concatenated tables of several sessions, without undone rounds.

    Rounds that a fork shares with another of these sessions are included once.
    """
    collected: dict[str, list[Row]] = {name: [] for name in COLUMNS}
    for name in names:
        events = read_session(home, name)
        forks = (event for event in events if isinstance(event, ForkedEvent))
        first = max((fork.at for fork in forks if fork.source in names), default=0)
        for table, rows in tables(events).items():
            collected[table] += [row for row in rows if row["round"] >= first]
        collected["likeness"] += likeness_rows(name, read_likeness(folder_of(home, name)))
    return collected


def decider_rows(tables_: dict[str, list[Row]]) -> list[list[str]]:
    """Return a row for each round of sessions with a language model, with the author of each step.

    Columns: session, round, images used, use of the draft, tool calls by author.
    """
    rows = []
    for one in tables_["rounds"]:
        if planner_of(one["brain"]) is not None or not one["round"]:
            continue
        where = (one["session"], one["round"])
        steps: dict[str, list[str]] = {}
        for call in tables_["calls"]:
            if (call["session"], call["round"]) == where and call["outcome"] == "legal":
                steps.setdefault(call["author"], []).append(call["tool"])
        rows.append(
            [
                one["session"],
                str(one["round"]),
                f"{one['n_images'] or 0} of {one['n_allowed'] or '?'}",
                one["draft"] or "-",
                "; ".join(f"{author}: {', '.join(tools)}" for author, tools in steps.items()),
            ]
        )
    return rows


def write_tables(tables_: dict[str, list[Row]], kind: str, folder: Path) -> list[Path]:
    """Write the tables as files of a format and return their paths.

    Raises SettingsError for an unknown format, if the package duckdb is missing, or if a file of
    the user would be overwritten.
    """
    if kind not in FORMATS:
        raise SettingsError(unknown("format", kind, (*FORMATS, "otlp")))
    if kind == "duckdb":
        with writing(folder, ["trace.duckdb"]):
            return [_write_duckdb(tables_, folder / "trace.duckdb")]
    paths = {name: folder / f"{name}.{kind}" for name in tables_}
    with writing(folder, [path.name for path in paths.values()]):
        for name, path in paths.items():
            (_write_csv if kind == "csv" else _write_parquet)(name, tables_[name], path)
    return list(paths.values())


def write_page(home: Path, names: Sequence[str], path: Path) -> None:
    """Write the page with the evidence of several sessions."""
    collected = collect(home, names)
    command = shlex.join(["shaping", "trace", *names, "--report", path.name])
    page = build_evidence_html(evidence(collected), collected["rounds"], command)
    with writing(path.parent, [path.name]):
        write_bytes(path, page.encode())


def _write_csv(name: str, rows: Sequence[Row], path: Path) -> None:
    columns = list(COLUMNS[name])
    cells = ([row.get(column, "") for column in columns] for row in rows)
    write_csv(path, columns, cells, line_end="\r\n")


def _table(name: str, rows: Sequence[Row]) -> Any:
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(column, types[kind]) for column, kind in COLUMNS[name].items()])
    return pa.Table.from_pylist(list(rows), schema=schema)


def _write_parquet(name: str, rows: Sequence[Row], path: Path) -> None:
    import pyarrow.parquet as pq

    write_atomic(path, lambda handle: pq.write_table(_table(name, rows), handle))


def _write_duckdb(tables_: dict[str, list[Row]], path: Path) -> Path:
    try:
        import duckdb
    except ImportError as error:
        raise SettingsError(
            "--to duckdb needs the package duckdb: pip install 'feedback-shaping[trace]'"
        ) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with duckdb.connect(str(path)) as database:
        for name, rows in tables_.items():
            database.register("rows_", _table(name, rows))
            database.execute(f'CREATE TABLE "{name}" AS SELECT * FROM rows_')
            database.unregister("rows_")
    return path
