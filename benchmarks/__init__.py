"""Experiments on public data that are not part of the package; nothing of the data is committed."""
