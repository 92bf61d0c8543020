"""`shaping chat` and `web`: watch and steer sessions in a terminal or a browser."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.commands import options
from agent.cli.commands.common import (
    changes,
    continued,
    going_on,
    home_of,
    refuse_unknown,
    say,
    settings_of,
)
from memory.errors import SettingsError

if TYPE_CHECKING:
    from agent.config.settings import Settings

app = typer.Typer()


@app.command()
def chat(
    ctx: typer.Context,
    opened: Annotated[
        str | None,
        typer.Argument(
            metavar="[PRESET|NAME]",
            help="The name of a session to open, or a preset of `shaping presets` to begin one.",
            show_default=options.PRESET,
        ),
    ] = None,
    session: Annotated[
        str | None, typer.Option(help="Name of the new session, or of one to open.")
    ] = None,
    rounds: options.Rounds = None,
    images_per_round: options.Images = None,
    brain: Annotated[
        str | None,
        typer.Option(help="What plans rounds: policy:PLANNER, openai:MODEL, ollama:MODEL."),
    ] = None,
    baseline: options.Model = None,
    auto: options.Auto = None,
    target: options.Target = None,
    seed: options.Seed = None,
    trust: options.Trust = False,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Watch a session in a chat while it runs; approve, edit and steer its plans.

    The same command continues a session that has not finished.

    Without a terminal, lines are read from standard input; "/wait" waits until a plan is pending or
    the session ends.
    """
    from agent.session.folder import has_session

    folder = home_of(home)
    name = session or opened or ""
    exists = bool(name) and "/" not in name and has_session(folder, name)
    if exists and target is None:
        settings = continued(ctx, folder, name)
    else:
        if opened and target is None:
            refuse_unknown(folder, opened)
        settings = going_on(settings_of(opened, changes(ctx), target))
    from agent.chat import terminal

    terminal.chat(settings, auto, sys.stdin, os.environ)


@app.command()
def web(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|PRESET]",
            help="A session to open, or a preset to begin one; else the page lists all sessions.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default only for this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 7860,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the token to ask for; also SHAPING_WEB_TOKEN. [default: a random one]",
        ),
    ] = None,
    auto: options.Auto = None,
    trust: options.Trust = False,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Watch and steer sessions in a browser.

    From elsewhere: ssh -L 7860:127.0.0.1:7860 MACHINE, then open the printed address.
    """
    if importlib.util.find_spec("fastapi") is None:
        raise SettingsError(
            "The web page needs FastAPI, which is not installed. Add it with: "
            "pip install 'feedback-shaping[web]'"
        )
    from agent.session.folder import has_session

    # Only home: other options may be invalid for the default preset.
    placed = [text for text in changes(ctx) if text.startswith("home=")]
    folder = settings_of(None, placed).home

    def begin(preset: str) -> Settings:
        return settings_of(preset, changes(ctx))

    opened = None
    if name is not None and "/" not in name and has_session(folder, name):
        opened = continued(ctx, folder, name)
    elif name is not None:
        refuse_unknown(folder, name)
        opened = begin(name)
    from agent.web import app
    from agent.web.registry import SessionRegistry

    registry = SessionRegistry(folder, begin, auto)
    app.serve(registry, opened, host, port, _token(token_file), say)


def _token(file: Path | None) -> str | None:
    """Return the token from a file or the environment, and remove it from the latter.

    Child processes must not inherit the token.
    """
    from agent.config.settings import WEB_TOKEN

    token = os.environ.pop(WEB_TOKEN, None)
    if file is not None:
        try:
            token = file.read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            raise SettingsError(f"The token file {file} cannot be read: {error}.") from error
    return token
