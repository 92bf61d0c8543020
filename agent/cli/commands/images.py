"""`shaping generate` and `prompts`: images and prompts without a session."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.commands import options
from agent.cli.commands.common import console, resolve, say, say_table

app = typer.Typer()


@app.command()
def generate(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help='E.g. "a dark polycrystalline solar cell".')],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images.")] = 16,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the images.")] = Path(
        "generated"
    ),
    preset: options.DrawingPreset = None,
    target: options.Target = None,
    seed: options.Seed = None,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Draw images of one prompt."""
    settings = resolve(ctx)
    from agent.cli import generate

    say(f"Montage: {generate.generate(settings, prompt, n, output, console())}")


@app.command()
def prompts(
    ctx: typer.Context,
    request: Annotated[str, typer.Argument(help='E.g. "a dark poly cell with a large dark area".')],
    n: Annotated[int, typer.Option("-n", min=1, max=1000, help="Number of prompts.")] = 50,
    brain: Annotated[
        str | None, typer.Option(help="Brain that writes prompts too, e.g. openai:MODEL.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=100, help="Images of each prompt.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="JSON file of prompts and figures."),
    ] = None,
    preset: options.DrawingPreset = None,
    target: options.Target = None,
    seed: options.Seed = None,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Write different prompts for a request, by a brain and by the grammar, and measure both."""
    settings = resolve(ctx)
    from agent.cli import prompt_study
    from memory.files import write_json
    from memory.user_folders import refuse_taken, writing

    if output:
        refuse_taken(output.parent, [output.name])
    result = prompt_study.study(settings, request, n, images, console())
    for line in prompt_study.notes(result):
        say(line)
    say_table(*prompt_study.table(result))
    if output:
        with writing(output.parent, [output.name]):
            write_json(output, result.to_json())
        say(f"Prompts and figures: {output}")
