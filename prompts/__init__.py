"""Prompt files and vocabularies of targets, and their loaders."""
