"""Arguments and options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PRESET = "solar"

Preset = Annotated[
    str | None,
    typer.Argument(
        help="A preset of `shaping presets`, or the path of a .yaml file.", show_default=PRESET
    ),
]
DrawingPreset = Annotated[
    str | None, typer.Option(help="Preset whose generator draws.", show_default=PRESET)
]
Name = Annotated[str | None, typer.Argument(help="Name of the session. [default: the latest one]")]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Folder of all results; also SHAPING_HOME. [default: ./shaping-home]"
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting, e.g. audit.threshold=0.6. Repeatable."
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="NAME:PATH",
        help="Your own data, in place of PRESET: folder:PATH, hf:PATH, or camvid:PATH.",
    ),
]
MemoryUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Chroma server that homes share, e.g. http://HOST:8000."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the session.")]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the commands and code named in a session folder of others."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="Your model to improve: a folder of transformers, or best/ of a session.",
    ),
]
Rounds = Annotated[int | None, typer.Option(help="Total number of rounds.")]
Images = Annotated[int | None, typer.Option(help="Images per round.")]
MaxHours = Annotated[float | None, typer.Option(help="Total hours of work, without pauses.")]
MaxGpuHours = Annotated[float | None, typer.Option(help="Total hours on a GPU.")]
MaxImages = Annotated[int | None, typer.Option(help="Total number of images.")]
TargetScore = Annotated[
    float | None, typer.Option(help="End when the main figure on feedback reaches this value.")
]
Patience = Annotated[
    int | None, typer.Option(help="End after this many rounds without a better score.")
]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="Run in the background; survives the terminal.")
]
OnFinish = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Shell command to run at the end, with $SESSION, $SESSION_FOLDER, $SESSION_REPORT and "
        "$SESSION_ENDED_BY.",
    ),
]
Auto = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Approve plans after this time without an answer."),
]
