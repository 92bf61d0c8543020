"""Unattended sessions, at a terminal or in the background."""
