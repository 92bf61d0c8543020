"""Prompts as files, the vocabularies of targets, and how both are read."""
