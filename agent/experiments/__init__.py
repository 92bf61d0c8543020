"""Comparisons of planners, controls and brains at equal cost, and recomputation of sessions."""
