"""Benchmarks that produce the figures in docs/results, one command each; not in the package."""
