"""The command line `shaping`: parses options, builds settings, prints results."""
