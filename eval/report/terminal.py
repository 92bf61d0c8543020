"""Rendering of blocks in a terminal."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from eval.report.blocks import Block, Cell, Chart, Line, Picture, Table, cell_text

STYLES = {"good": "green", "warning": "yellow", "error": "red", "bold": "bold", "dim": "dim"}
# Largest size of a picture in half blocks; a character shows two pixels, one above the other.
MAX_COLUMNS, MAX_LINES = 96, 40
MAX_PIXELS = 20_000_000

Pictures = Literal["iterm", "kitty", "blocks"]
"""Protocol for pictures: inline images of iTerm2, graphics of kitty, or half blocks."""


def draw(console: Console, blocks: Iterable[Block], pictures: Pictures | None = None) -> None:
    """Print blocks; pictures: protocol for pictures below their captions, None: captions only."""
    for block in blocks:
        if isinstance(block, Line):
            console.print(Text(block.text, STYLES.get(block.style, "")))
        elif isinstance(block, Table):
            console.print(draw_table(block))
        elif isinstance(block, Chart):
            console.print(Text(f"{block.title}: {block.description}"))
        else:
            _draw_picture(console, block, pictures)


def draw_table(table: Table) -> RichTable:
    """Return a table for a console; text is never interpreted as markup."""
    drawn = RichTable(
        *(
            Column(name, justify="right" if name in table.right else "left", overflow="fold")
            for name in table.columns
        ),
        title=Text(table.title, "bold") if table.title else None,
        title_justify="left",
        show_header=bool(table.columns),
    )
    for row in table.rows:
        drawn.add_row(*(_cell(cell) for cell in row))
    return drawn


def _cell(cell: Cell) -> Text:
    style = STYLES.get(cell.style, "") if isinstance(cell, Line) else ""
    return Text(cell_text(cell), style, overflow="fold")


def _draw_picture(console: Console, picture: Picture, pictures: Pictures | None) -> None:
    place = f": {picture.content}" if isinstance(picture.content, Path) else ""
    console.print(Text(f"{picture.caption}{place}"), soft_wrap=True)
    if pictures == "blocks":
        console.print(half_blocks(picture.png, min(MAX_COLUMNS, console.width)))
    elif pictures is not None:
        console.file.write(inline_image(pictures, base64.standard_b64encode(picture.png).decode()))
        console.file.flush()


def half_blocks(png: bytes, columns: int) -> Text:
    """Return a PNG picture as coloured half blocks, at most `columns` wide and 40 lines high."""
    from PIL import Image

    with Image.open(BytesIO(png), formats=["PNG"]) as file:
        if file.width * file.height > MAX_PIXELS:
            return Text("(a picture too large to be shown)", "dim")
        picture = file.convert("RGB")
    scale = min(columns / picture.width, 2 * MAX_LINES / picture.height, 1.0)
    width = max(1, int(picture.width * scale))
    height = max(2, int(picture.height * scale) // 2 * 2)
    data = picture.resize((width, height), Image.Resampling.BOX).tobytes()
    colours = [f"#{data[i : i + 3].hex()}" for i in range(0, len(data), 3)]
    text = Text()
    for top in range(0, height * width, 2 * width):
        for upper in range(top, top + width):
            text.append("▀", f"{colours[upper]} on {colours[upper + width]}")
        text.append("\n")
    text.rstrip()
    return text


def inline_image(protocol: str, data: str) -> str:
    """Return the escape sequence that draws a PNG, given in base64."""
    if protocol == "iterm":
        return f"\033]1337;File=inline=1;width=auto:{data}\a\n"
    # The kitty graphics protocol takes chunks of 4 KiB, all but the last marked with m=1.
    parts = [data[i : i + 4096] for i in range(0, len(data), 4096)]
    heads = ["a=T,f=100,", *[""] * (len(parts) - 1)]
    more = [1] * (len(parts) - 1) + [0]
    chunks = zip(heads, more, parts, strict=True)
    return "".join(f"\033_G{head}m={m};{part}\033\\" for head, m, part in chunks) + "\n"
