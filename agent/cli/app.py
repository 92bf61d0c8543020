"""The command line `shaping`: assembles commands, and maps errors to messages and exit codes."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from agent.cli.commands import (
    compare,
    images,
    memory,
    models,
    replay,
    sessions,
    setup,
    steering,
    trace,
)
from agent.cli.commands.common import QUOTES, complain
from agent.cli.streams import lost_output, make_lenient
from memory.errors import (
    BrainError,
    DataError,
    SessionError,
    SettingsError,
    ShapingError,
    Stopped,
    StorageError,
    WeightsError,
)
from tools.models.processor import choose_threads

EPILOG = (
    "Exit codes: 0 done; 1 another failure; 2 settings, data or weights that cannot be used; "
    "3 a disk that is full or cannot be written; 4 a session in use or damaged; 5 a language "
    "model that cannot be used; 6 a session ended on request, to be resumed; 130 interrupted."
)
_STORAGE = 3


# click's class in the copy of click within Typer, which exports only its subclass BadParameter.
UsageError: Any = typer.BadParameter.__mro__[1]


class Explained(TyperGroup):
    """A command group that reports errors as a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; report a ShapingError or Ctrl-C as a message and an exit code."""
        words = list(ctx.args)
        try:
            return super().invoke(ctx)
        except UsageError as error:
            if "unexpected extra argument" in error.message and "--target" in words:
                error.message += f". {QUOTES}"
            raise
        except ShapingError as error:
            complain("Stopped:" if isinstance(error, Stopped) else "Error:", str(error))
            raise typer.Exit(exit_code(error)) from error
        except KeyboardInterrupt as error:
            complain("Interrupted;", "run the same command again to continue.")
            raise typer.Exit(130) from error


def exit_code(error: ShapingError) -> int:
    """Return the exit code of an error, see EPILOG."""
    if isinstance(error, SettingsError | DataError | WeightsError):
        return 2
    if isinstance(error, StorageError):
        return _STORAGE
    if isinstance(error, SessionError):
        return 4
    if isinstance(error, BrainError):
        return 5
    return 6 if isinstance(error, Stopped) else 1


app = typer.Typer(
    cls=Explained,
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Shape synthetic training data by what a model still gets wrong on real photographs.",
)
for topic in (sessions, steering, replay, trace, images, models, compare, memory, setup):
    app.add_typer(topic.app)


def main() -> None:
    """Entry point of the command `shaping`."""
    make_lenient()
    choose_threads()
    try:
        app()
    except SystemExit as end:
        if error := lost_output():
            complain("Error:", f"Standard output cannot be written, and is lost: {error}")
            raise SystemExit(end.code or _STORAGE) from error
        raise


if __name__ == "__main__":
    main()
