"""What a model says of distances, as metres."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from memory.errors import SettingsError
from memory.records import Record

DepthOutput = Literal["metres", "linear", "inverse"]


class DepthUnit(Record):
    """Options of labelers with a depth model.

    depth_output: what the model says; metres are depth_scale (metres) times `linear`, or divided by
    `inverse`. Depth beyond farthest_m metres counts as unknown.
    """

    depth_output: DepthOutput | None = None
    depth_scale: float | None = Field(None, gt=0)
    farthest_m: float = Field(500.0, gt=0)

    def metres(self, said: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Return metres, NaN where they are not known.

        said: what the model says, above 0 where `known`, a bool of the same shape.
        """
        scale = self.depth_scale or 1.0
        found = scale / said if self.depth_output == "inverse" else scale * said
        return found.where(known & (found <= self.farthest_m), torch.nan)


def check_scale(output: DepthOutput, scale: float | None) -> None:
    """Raise SettingsError unless there is a scale exactly where the output needs one."""
    if (output == "metres") != (scale is None):
        raise SettingsError(
            f"depth_output={output} {'takes no' if output == 'metres' else 'needs a'} depth_scale."
        )
