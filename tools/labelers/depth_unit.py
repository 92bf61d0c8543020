"""The unit of a depth model's output, and its conversion to metres."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from memory.errors import SettingsError
from memory.records import Record

DepthOutput = Literal["metres", "linear", "inverse"]


class DepthUnit(Record):
    """Options of labelers with a depth model.

    Attributes:
        depth_output: Unit of the model's output; None: unknown.
        depth_scale: Metres; multiplied with `linear`, or divided by `inverse` outputs.
        farthest_m: Depth beyond it counts as unknown.
    """

    depth_output: DepthOutput | None = None
    depth_scale: float | None = Field(None, gt=0)
    farthest_m: float = Field(500.0, gt=0)

    def metres(self, outputs: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Convert a model's outputs to metres, NaN where unknown.

        Args:
            outputs: Above 0 where `known`.
            known: bool, of the same shape.
        """
        scale = self.depth_scale or 1.0
        metres = scale / outputs if self.depth_output == "inverse" else scale * outputs
        return metres.where(known & (metres <= self.farthest_m), torch.nan)


def check_scale(output: DepthOutput, scale: float | None) -> None:
    """Raise SettingsError unless there is a scale exactly where the output needs one."""
    if (output == "metres") != (scale is None):
        raise SettingsError(
            f"depth_output={output} {'takes no' if output == 'metres' else 'needs a'} depth_scale."
        )
