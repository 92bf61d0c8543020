"""Preconditioning of the denoiser: scaling of the network's input and output.

The denoiser is D(x) = c_skip x + c_out F(c_in x) with the network F (Karras et al. 2022, eq. 7),
here for a variance-preserving schedule and with coefficients per channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

Prediction = Literal["velocity", "clean", "residual"]

PREDICTION_TYPES: Mapping[Prediction, str] = {
    "velocity": "v_prediction",
    "clean": "sample",
    "residual": "sample",
}
"""The `prediction_type` of diffusers' scheduler for each prediction."""


def preconditioning(
    prediction: Prediction, a: torch.Tensor, powers: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (c_in, c_skip, c_out), each of the shape of `a`.

    Args:
        prediction: "velocity": F is sqrt(a) noise - sqrt(1 - a) clean (Salimans and Ho 2022).
            "clean": F is the clean image. "residual": F is the error of a linear denoiser, scaled
            to unit variance.
        a: Signal power of every channel, 0..1, (n, k, 1, 1).
        powers: For "residual", (2, 1, k, 1, 1): the mean square of every channel and of its part
            unexplained by neighbouring patches.
    """
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    if prediction == "clean":
        return one, zero, one
    if prediction == "velocity":
        return one, a.sqrt(), -(1 - a).sqrt()
    assert powers is not None  # required by "residual"
    power, unexplained = powers.to(a)
    c_skip = a.sqrt() * unexplained / (a * unexplained + (1 - a))
    c_out = ((1 - c_skip * a.sqrt()) ** 2 * power + c_skip**2 * (1 - a)).sqrt()
    return (a * power + (1 - a)).rsqrt(), c_skip, c_out
