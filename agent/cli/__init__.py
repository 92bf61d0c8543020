"""The command `shaping`: parse, build, print."""
