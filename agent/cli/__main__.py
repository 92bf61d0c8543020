"""`python -m agent.cli`: the command `shaping`."""

from agent.cli.app import main

main()
