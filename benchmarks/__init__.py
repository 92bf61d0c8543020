"""Benchmarks behind the figures in docs/results, each a command of its own; not in the package."""
