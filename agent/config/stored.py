"""Settings stored by earlier versions: keys added since have the value of their behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.config.settings import Settings

# Removed settings by section, which are ignored.
_GONE = {"feedback": "trial", "dstm": "rare_pixels"}
_BEFORE: Mapping[str, Mapping[str, Any]] = {
    "dstm": {"train_on": "synthetic", "min_class_weight": 0.0, "logit_adjustment": 0.0},
    "generator": {"steps": 8, "guidance": 2.0},
}


def read_stored(values: Any) -> Settings:
    """Return stored settings of a session or a comparison with their original meaning.

    Args:
        values: Plain JSON. A missing key was added since, and has the value that reproduces the
            behaviour of the version that stored them.

    Raises:
        ValidationError: The values are not valid settings.
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
