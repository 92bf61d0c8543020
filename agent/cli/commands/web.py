"""The command `shaping web`."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.commands.common import (
    HomeOption,
    SetOption,
    assignments,
    refuse_unknown,
    resolve,
    say,
)
from memory.errors import SettingsError

if TYPE_CHECKING:
    from agent.config.settings import Settings

app = typer.Typer()


@app.command()
def web(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|PRESET]",
            help="A session to open, or a preset to begin one; else the page lists all sessions.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than this machine's need the token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 7860,
    token: Annotated[
        str | None, typer.Option(help="Ask for this token; one is made up where it is needed.")
    ] = None,
    auto: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Approve plans after so long without a word."),
    ] = None,
    home: HomeOption = None,
    set_: SetOption = None,
) -> None:
    """Watch and steer sessions in a browser.

    From elsewhere: ssh -L 7860:127.0.0.1:7860 MACHINE, then open http://127.0.0.1:7860/.
    """
    if importlib.util.find_spec("gradio") is None:
        raise SettingsError(
            "The web page needs Gradio, which is not installed. Add it with: "
            "pip install 'feedback-shaping[web]'"
        )
    from agent.config.settings import with_changes
    from agent.session.folder import folder_of, stored_settings

    # The other settings may be those of another preset than the default one.
    folder = resolve(set_=[text for text in set_ or [] if text.startswith("home=")], home=home).home

    def begin(preset: str) -> Settings:
        return resolve(preset, set_, home=home)

    opened = None
    if name is not None and "/" not in name and (folder_of(folder, name) / "session.yaml").exists():
        given = assignments({"session.name": name, "home": folder})
        opened = with_changes(stored_settings(folder, name), [*(set_ or []), *given])
    elif name is not None:
        refuse_unknown(folder, name)
        opened = begin(name)
    from agent.web import app
    from agent.web.registry import Hall

    app.serve(Hall(folder, begin, auto), opened, host, port, token, say)
