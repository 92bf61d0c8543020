"""Labelled images as arrays and as files."""
