"""Settings that an earlier version may have stored: what it did not know, it did in one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.config.settings import Settings

# Settings that are gone, by section: such sessions go on without them.
_GONE = {"feedback": "trial", "dstm": "rare_pixels"}
_BEFORE: Mapping[str, Mapping[str, Any]] = {
    "dstm": {"train_on": "synthetic", "min_class_weight": 0.0, "logit_adjustment": 0.0},
    "generator": {"steps": 8, "guidance": 2.0},
}


def read_stored(values: Any) -> Settings:
    """Return the settings of a session or a comparison as they were meant when they were stored.

    Args:
        values: Plain JSON; a setting that is missing was added since, and has the value by which
            that version worked.

    Raises:
        ValidationError: The values are no settings.
    """
    if isinstance(values, Mapping):
        for name, before in _BEFORE.items():
            if isinstance(section := values.get(name, {}), Mapping):
                values = {**values, name: {**before, **section}}
        for name, gone in _GONE.items():
            if isinstance(section := values.get(name), Mapping):
                kept = {key: value for key, value in section.items() if key != gone}
                if "mtdm" in str(kept.get("embedding")):
                    kept["embedding"] = "dstm"
                values = {**values, name: kept}
    return Settings.model_validate(values)
