"""`shaping doctor` and `presets`: what this machine has, and what there is to begin with."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.commands import options
from agent.cli.commands.common import resolve, say_table

app = typer.Typer()


@app.command()
def presets() -> None:
    """List the presets."""
    from agent.config import settings

    say_table(["preset", "what it is"], list(settings.presets().items()))


@app.command()
def doctor(
    ctx: typer.Context,
    brain: Annotated[
        str | None,
        typer.Option(help="Also ask this one for a tool call, e.g. ollama:MODEL."),
    ] = None,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Show versions, device, memory and models, what is missing and what adds it."""
    settings = resolve(ctx)
    from agent.cli import doctor

    checks = doctor.checks(settings.home)
    if brain is not None:
        checks += doctor.brain(settings)
    rows = [
        ["ok" if c.ok else "MISSING" if c.required else "note", c.name, c.detail, c.fix]
        for c in checks
    ]
    say_table(["", "what", "found", "what to do"], rows)
    if not all(check.ok for check in checks if check.required):
        raise typer.Exit(1)
