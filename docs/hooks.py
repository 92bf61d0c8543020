"""Hooks of the documentation site: tables from CSV files, and the generated reference.

`<!-- table: FILE.csv [COLUMN, ...] -->` in a page becomes a table of that file, beside the page.
`reference/cli.md` and `reference/settings.md` are generated from Typer and pydantic.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from agent.cli.app import app
from agent.config.settings import Settings

_TABLE = re.compile(r"<!-- table: (\S+)((?: \w+,?)*) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference."""
    for name, content in (("cli", cli_page()), ("settings", settings_page())):
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Replace the table comments of a page by tables."""
    source = page.file.abs_src_path
    folder = Path(source).parent if source else Path()
    return _TABLE.sub(lambda match: table(folder / match[1], match[2]), markdown)


def table(path: Path, columns: str = "") -> str:
    """Return a CSV file as a Markdown table, or the named columns of it."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = columns.strip().split(", ") if columns else list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def cli_page() -> str:
    """Return the reference of all commands with their arguments and options."""
    lines = ["# Commands", "", "Generated from the command line parser.", ""]
    for words, command in _commands("shaping", typer.main.get_command(app)):
        lines += [f"## {words}", "", command.help or "", "", "| | |", "|---|---|"]
        for parameter in command.params:
            names = ", ".join(f"`{name}`" for name in parameter.opts)
            lines.append(f"| {names} | {_cell(getattr(parameter, 'help', None) or '')} |")
        lines.append("")
    return "\n".join(lines)


def settings_page() -> str:
    """Return the reference of all settings with their defaults."""
    lines = ["# Settings", "", "Generated from `agent.config.settings.Settings`.", ""]
    for key, model in _sections("", Settings):
        lines += [f"## {key or 'top level'}", "", (model.__doc__ or "").strip(), ""]
        lines += ["| Key | Default | Meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            if not _models(field.annotation):
                default = field.get_default(call_default_factory=True, validated_data={})
                shown = "" if default is PydanticUndefined else f"`{default!r}`"
                key_name = f"{key}.{name}" if key else name
                lines.append(
                    f"| `{key_name}` | {_cell(shown)} | {_cell(field.description or '')} |"
                )
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _commands(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield words, command
    for name, child in (children or {}).items():
        yield from _commands(f"{words} {name}", child)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models that a field's annotation is, or may be."""
    parts = get_args(annotation) if get_origin(annotation) is not None else (annotation,)
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def _sections(key: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield key, model
    for name, field in model.model_fields.items():
        for inner in _models(field.annotation):
            yield from _sections(f"{key}.{name}" if key else name, inner)
