"""Recorded sessions: stepped through, verified, compared, exported."""
