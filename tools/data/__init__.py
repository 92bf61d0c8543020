"""Labelled images as arrays and files."""
