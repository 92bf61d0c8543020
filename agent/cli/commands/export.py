"""`shaping export`: the images of a session as a data set for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.commands.common import HomeOption, resolve, say

app = typer.Typer()


class Format(StrEnum):
    """Formats of `tools.data.export`, which is too heavy to be imported for the help."""

    imagefolder = "imagefolder"
    parquet = "parquet"
    coco = "coco"
    webdataset = "webdataset"


@app.command()
def export(
    name: Annotated[
        str | None, typer.Argument(help="Name of the session. [default: the latest one]")
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", "-f", help="coco: for segmentation alone.")
    ] = Format.parquet,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="[default: export-NAME-FORMAT]")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Write the images of a session as a data set with a card; it loads with `datasets`."""
    from agent.autonomous.results import source_of
    from agent.session.folder import latest
    from tools.data import export as exporting

    folder = resolve(home=home).home
    name = name or latest(folder)
    place = output or Path(f"export-{name}-{format_}")
    n_images = exporting.export(source_of(folder, name), format_.value, place)
    say(f"{n_images} images in {place}")
    say("To load them: " + exporting.loading(format_.value, place))
