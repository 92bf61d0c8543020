"""Units of the outputs of depth models, and their conversion to metres."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from memory.errors import SettingsError
from memory.records import Record

DepthOutput = Literal["metres", "linear", "inverse"]


class DepthUnit(Record):
    """Options of labelers that use a depth model.

    Attributes:
        depth_output: Unit of the model's output; None: unknown.
        depth_scale: Metres; factor of `linear` outputs, dividend of `inverse` outputs.
        farthest_m: Depth in metres beyond which pixels count as unknown.
    """

    depth_output: DepthOutput | None = None
    depth_scale: float | None = Field(None, gt=0)
    farthest_m: float = Field(500.0, gt=0)

    def metres(self, outputs: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Convert a model's outputs to metres, NaN where unknown.

        Args:
            outputs: Outputs of the model, positive where `known`.
            known: Mask of known pixels, of the same shape.
        """
        scale = self.depth_scale or 1.0
        metres = scale / outputs if self.depth_output == "inverse" else scale * outputs
        return metres.where(known & (metres <= self.farthest_m), torch.nan)


def check_scale(output: DepthOutput, scale: float | None) -> None:
    """Raise SettingsError if a scale is missing, or given for an output in metres."""
    if (output == "metres") != (scale is None):
        raise SettingsError(
            f"depth_output={output} {'takes no' if output == 'metres' else 'needs a'} depth_scale."
        )
