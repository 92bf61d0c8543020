"""Benchmarks behind the documented figures, each a command of its own."""
