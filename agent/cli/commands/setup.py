"""`shaping doctor` and `presets`: check this machine, and list the presets."""

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
        typer.Option(help="Also check this brain, e.g. ollama:MODEL."),
    ] = None,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Check versions, device, memory and models; show what is missing and how to add it."""
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
