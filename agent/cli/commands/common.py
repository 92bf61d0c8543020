"""What all commands share: options, settings, and printing."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from memory.errors import SettingsError

if TYPE_CHECKING:
    from agent.config.settings import Settings

PRESET = "solar"
QUOTES = "A path with blanks needs quotes: --target 'folder:PATH'."
PresetArgument = Annotated[
    str | None,
    typer.Argument(
        help="A preset of `shaping presets`, or the path of a .yaml file.", show_default=PRESET
    ),
]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", help="Where all is written; also SHAPING_HOME. [default: ./shaping-home]"
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting, e.g. audit.threshold=0.6. Repeatable."
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME:PATH", help="Your own data: folder:PATH, hf:PATH, or camvid:PATH; no PRESET."
    ),
]
MemoryUrlOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Chroma server that homes share, e.g. http://HOST:8000."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of the session.")]


def resolve(
    preset: str | None = None,
    set_: Sequence[str] | None = None,
    options: dict[str, Any] | None = None,
    home: Path | None = None,
    target: str | None = None,
    needs_weights: bool = True,
) -> Settings:
    """Resolve the settings of a command; options that are None were not given.

    preset: None for the usual one; target: NAME:PATH of a user's own data, which then decide the
    preset; needs_weights: whether an MTDM must have been trained for them. Raises SettingsError
    where both are given, or data in the place of a preset.
    """
    from agent.config.settings import load_settings

    given = {**(options or {}), **({"home": home} if home else {})}
    wanted = [*(set_ or []), *assignments(given)]
    if target is None:
        _refuse_data(preset or PRESET)
        return load_settings(preset or PRESET, wanted, os.environ)
    if preset is not None:
        raise SettingsError(
            f"--target {target} decides its settings itself, so the preset {preset!r} would not be "
            "used. Leave out the one or the other; single settings go with --set KEY=VALUE. "
            f"{QUOTES}"
        )
    from agent.loop.progress import counted
    from agent.loop.user_dataset import load_own
    from tools.targets import reading

    with counted(console(), "reading", "photographs", every_s=5) as report:
        token = reading.set(report)
        try:
            return load_own(target, wanted, os.environ, needs_weights, _warn)
        finally:
            reading.reset(token)


def continued(
    home: Path, name: str, set_: Sequence[str] | None, options: dict[str, Any]
) -> Settings:
    """Return the settings of a session that exists, with what was given anew."""
    from agent.config.settings import with_changes
    from agent.session.folder import stored_settings

    given = assignments({**options, "session.name": name, "home": home})
    return with_changes(stored_settings(home, name), [*(set_ or []), *given])


def refuse_unknown(home: Path, name: str) -> None:
    """Raise SettingsError for what is the name of no session and of no preset."""
    from agent.config.settings import presets
    from agent.session.folder import list_sessions
    from memory.errors import unknown

    known = [preset for preset, _ in presets()]
    if name in known or ":" in name or "/" in name or Path(name).exists() or "." in name:
        return  # a preset, or explained where it is read
    raise SettingsError(
        unknown("session or preset", name, [*known, *(info.name for info in list_sessions(home))])
    )


def _refuse_data(preset: str) -> None:
    """Raise SettingsError for data that stand where a preset should."""
    kind, colon, _ = preset.partition(":")
    if colon:
        from agent.loop.user_dataset import PRESETS

        if kind in PRESETS:
            raise SettingsError(
                f"{preset!r} is no preset; say where your data are by "
                f"--target {shlex.quote(preset)}."
            )
    elif Path(preset).expanduser().is_dir():
        from agent.config.settings import presets

        if preset not in [name for name, _ in presets()]:
            raise SettingsError(
                f"{preset!r} is a folder, no preset. If your data lie there, say "
                f"--target {shlex.quote(f'folder:{preset}')}."
            )


def assignments(options: dict[str, Any]) -> list[str]:
    """Return the "key=value" of options; those that are None were not given."""
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def _warn(told: str) -> None:
    complain("Warning:", told)


def console() -> Console:
    """Return a console on standard output that leaves numbers uncoloured."""
    return Console(highlight=False)


def say(text: str) -> None:
    """Print a line as it stands."""
    # Not wrapped, so that a path can be copied or piped.
    console().print(text, soft_wrap=True, markup=False)


def say_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    from eval.report.blocks import Table
    from eval.report.terminal import draw

    draw(console(), [Table(columns, [[str(cell) for cell in row] for row in rows])])


def note(text: str) -> None:
    """Print what goes on to standard error, so that a pipe gets the result alone."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def complain(head: str, message: str) -> None:
    """Print to standard error."""
    stderr = Console(stderr=True, highlight=False)
    stderr.print(head, style="bold red", end=" ")
    stderr.print(message, markup=False, soft_wrap=True)
