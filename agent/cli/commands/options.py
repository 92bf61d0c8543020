"""Arguments and options that several commands have."""

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
        "--home", help="Where all is written; also SHAPING_HOME. [default: ./shaping-home]"
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
        metavar="NAME:PATH", help="Your own data: folder:PATH, hf:PATH, or camvid:PATH; no PRESET."
    ),
]
MemoryUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Chroma server that homes share, e.g. http://HOST:8000."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the session.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the commands and code that a session folder of others names."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="FOLDER",
        help="Your model, which images have to better: of transformers, or best/ of a session.",
    ),
]
Rounds = Annotated[int | None, typer.Option(help="Rounds in all.")]
Images = Annotated[int | None, typer.Option(help="Images of a round.")]
MaxHours = Annotated[float | None, typer.Option(help="Hours of work in all, pauses apart.")]
MaxGpuHours = Annotated[float | None, typer.Option(help="Hours with a GPU in all.")]
MaxImages = Annotated[int | None, typer.Option(help="Images in all.")]
TargetScore = Annotated[
    float | None, typer.Option(help="End when the main figure on feedback is as high as this.")
]
Patience = Annotated[
    int | None, typer.Option(help="End after so many rounds without a better score.")
]
Detach = Annotated[
    bool, typer.Option("--detach", "-d", help="In the background; survives the terminal.")
]
OnFinish = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Run in a shell at the end, with $SESSION, $SESSION_FOLDER, $SESSION_REPORT and "
        "$SESSION_ENDED_BY.",
    ),
]
Auto = Annotated[
    float | None,
    typer.Option(min=0, metavar="SECONDS", help="Approve plans after so long without a word."),
]
