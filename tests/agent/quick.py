"""Settings of sessions that take seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.config.settings import Settings, load_settings

# Painted photographs and images, short trainings.
QUICK = (
    "target.name=toy",
    "generator.name=toy",
    *("dstm.train_on=synthetic", "dstm.min_class_weight=0"),
    "dstm.steps=12",
    "dstm.batch_size=16",
    "audit.train.steps=12",
    "session.rounds=2",
    "session.images_per_round=24",
    "session.shard_size=8",
    "feedback.n_min=4",
    "device=cpu",
)
# The same, with trainings of three steps.
TOY = (
    "target.name=toy",
    "generator.name=toy",
    "session.images_per_round=16",
    "session.images_per_prompt=2",
    "session.rounds=2",
    *("dstm.train_on=synthetic", "dstm.min_class_weight=0"),
    "dstm.steps=3",
    "dstm.batch_size=8",
    "audit.train.steps=3",
    "feedback.n_min=4",
    "device=cpu",
)

MakeSettings = Callable[..., Settings]
"""The fixture `make_settings`."""


def toy_settings(home: Path, *overrides: str) -> Settings:
    """Return settings of TOY, changed by "section.key=value"."""
    return load_settings("solar", [*TOY, f"home={home}", *overrides], {})
