"""Failure: every slice gets images in proportion to its error in the last report."""

from __future__ import annotations

from agent.planners.slices import SlicePlanner, errors
from agent.planners.uniform import Uniform


def build(floor: float = 0.0) -> SlicePlanner:
    """Build the planner; floor: see `SlicePlanner`."""
    return SlicePlanner("failure", lambda seen, slices: errors(slices), Uniform(), floor)
