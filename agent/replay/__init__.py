"""Recorded sessions: viewer, verification, comparison and export."""
