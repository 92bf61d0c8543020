"""The command `shaping chat`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from agent.cli.commands.common import (
    PRESET,
    HomeOption,
    SeedOption,
    SetOption,
    TargetOption,
    continued,
    refuse_unknown,
    resolve,
)

app = typer.Typer()


@app.command()
def chat(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[PRESET|NAME]",
            help="The name of a session to open, or a preset of `shaping presets` to begin one.",
            show_default=PRESET,
        ),
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Name of the new session, or of one to open.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds in all.")] = None,
    images_per_round: Annotated[int | None, typer.Option(help="Images of a round.")] = None,
    brain: Annotated[
        str | None,
        typer.Option(help="Who decides beside you: policy:PLANNER, openai:MODEL, ollama:MODEL."),
    ] = None,
    auto: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Approve plans after so long without a word."),
    ] = None,
    target: TargetOption = None,
    seed: SeedOption = None,
    home: HomeOption = None,
    set_: SetOption = None,
) -> None:
    """Talk with a session while it runs: see, approve, edit and steer.

    Without a terminal, lines are read from standard input; "/wait" waits until a plan is there or
    the session ends.
    """
    from agent.session.folder import has_session

    options = {
        "session.name": session,
        "session.rounds": rounds,
        "session.images_per_round": images_per_round,
        "session.seed": seed,
        "brain": brain,
    }
    folder = resolve(home=home).home
    name = session or what or ""
    known = bool(name) and "/" not in name and has_session(folder, name)
    if known and target is None:
        settings = continued(folder, name, set_, options)
    else:
        if what and target is None:
            refuse_unknown(folder, what)
        settings = resolve(what, set_, {**options, "home": home}, target=target)
    from agent.chat import terminal as terminal

    terminal.chat(settings, auto, sys.stdin, os.environ)
