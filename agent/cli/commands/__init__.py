"""Commands of `shaping`, one file per topic.

Each file has a `typer.Typer()` named `app`; `agent.cli.app` adds its commands to the top level.
Expensive imports are made inside the commands.
"""
