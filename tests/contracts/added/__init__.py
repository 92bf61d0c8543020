"""One file of each kind of plug-in, as a contributor would add it, and how to add them to a run."""

from __future__ import annotations

import importlib
from pathlib import Path

# The package that each file is added to, and the name that it gets there.
FILES = {
    "target": "tools.targets",
    "generator": "tools.generators",
    "labeler": "tools.labelers",
    "task": "tools.tasks",
    "selection": "tools.selection",
    "planner": "agent.planners",
}
NAME = "halves"


def add(folder: Path) -> None:
    """Put one file into each package, by a folder that lies beside the package's own."""
    for kind in FILES:
        place = folder / kind
        place.mkdir(parents=True)
        source = Path(__file__).with_name(f"{kind}.py").read_text("utf-8")
        (place / f"{NAME}.py").write_text(source, "utf-8")
        package = importlib.import_module(FILES[kind])
        package.__path__.append(str(place))
