"""`shaping label-head`: heads that read labels of pixels off an MTDM's denoiser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.commands.common import (
    HomeOption,
    SetOption,
    TargetOption,
    console,
    resolve,
    say,
    say_table,
)

_PRESET = "streets"
app = typer.Typer()
heads = typer.Typer(no_args_is_help=True, help="Teach an MTDM labels that it does not draw.")
app.add_typer(heads, name="label-head")


@heads.callback()
def _group() -> None:
    """Keep `fit` a command of its own name, though it is the only one."""


@heads.command()
def fit(
    preset: Annotated[
        str | None,
        typer.Argument(help="A preset, or the path of a .yaml file.", show_default=_PRESET),
    ] = None,
    target: TargetOption = None,
    n: Annotated[int, typer.Option("-n", min=2, help="Labelled images to learn from.")] = 40,
    check: Annotated[int, typer.Option(min=1, help="Other labelled images to test on.")] = 40,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each member.")] = 400,
    members: Annotated[int, typer.Option(min=1, help="Heads whose disagreement is doubt.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the images, too.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="[default: HOME/label-heads/PRESET]")
    ] = None,
    home: HomeOption = None,
    set_: SetOption = None,
) -> None:
    """Train a head on labelled images of the generator split, and test it on others of it."""
    settings = resolve(preset if target else preset or _PRESET, set_, {"home": home}, target=target)
    from agent.loop.components import Components
    from agent.loop.progress import counted
    from tools.diffusion.pipeline import load_pipeline, weights_folder
    from tools.labelers import feature_decoder

    components = Components(settings)
    device, source = components.device, components.pretrain_target
    say(source.notice)
    known, others = feature_decoder.labelled(source.split("generator"), n, check, seed)
    pipeline = load_pipeline(weights_folder(settings.generator.weights), device)
    wanted = feature_decoder.HeadSettings(steps=steps, members=members, seed=seed)
    with counted(console(), "label head", "steps") as report:
        decoder = feature_decoder.fit(
            pipeline,
            known,
            source.pixel_classes,
            wanted,
            device,
            report,
        )
    figures = feature_decoder.figures(decoder, others, source.pixel_classes)
    folder = output or settings.home / "label-heads" / (
        source.name if target else Path(preset or _PRESET).stem
    )
    feature_decoder.save_head(folder, decoder, figures)
    say_table([f"on {len(others)} others", "value"], [[k, f"{v:.3f}"] for k, v in figures.items()])
    say(f"Label head: {folder}")
    say(
        "To use it: --set labeler.name=feature_decoder "
        f"--set 'labeler.options={{head: \"{folder.resolve()}\"}}'"
    )
