"""Sampling probabilities of generated images and photographs in a training.

Within a class, an image's probability is proportional to its weight; if the class has photographs,
generated images get a share of the class's total. With `balance_classes` all classes have equal
totals; without it they are as frequent as their images, and the loss may compensate
(`logit_adjustment`). Generated images get their full share if their evidence reaches
`min_class_weight`, and a proportional one below it, so that a class whose images are mostly
rejected by the audit is not sampled as often as others. As weights are at most 1, no generated
image gets more than 1 / min_class_weight of its class's share.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from memory.errors import DataError
from tools.data.samples import Pool
from tools.settings import DEFAULT_SHARE, DstmSettings, TrainSettings


def sampling_chances(
    samples: Pool,
    settings: TrainSettings,
    is_real: NDArray[np.bool_] | None = None,
    real_alone: bool = False,
) -> torch.Tensor:
    """Return the unnormalised sampling probability of each image, float64, (n,).

    For class c with image weights w_i, evidence e_c = sum of w_i^2 over its generated images, and
    t_c = min(1, e_c / min_class_weight): a class of both kinds samples generated images with the
    share s_c = synthetic_share t_c and has the total 1; a class of generated images alone has the
    total t_c; a class of photographs alone 1. Without `balance_classes` the total is the sum of the
    weights instead.

    `prompt_weights` multiply w_i by a factor per prompt of the generated image.

    Args:
        samples: n images.
        settings: Settings of the training. For a `TrainSettings` that is no `DstmSettings`,
            min_class_weight is 0 and all images count as generated.
        is_real: Mask of the photographs, (n,); None: no photographs.
        real_alone: Whether only photographs are sampled.

    Raises:
        DataError: No image has a weight above 0.
    """
    weights = torch.from_numpy(samples.weights).double().clone()
    if isinstance(settings, DstmSettings) and settings.prompt_weights:
        prompt_factors = settings.prompt_weights
        factors = [prompt_factors.get(name.rpartition("-")[0], 1.0) for name in samples.ids]
        factor = torch.tensor(factors, dtype=torch.float64)
        weights *= factor if is_real is None else factor.where(torch.from_numpy(~is_real), 1.0)
    if not weights.sum() > 0:
        raise DataError(
            f"None of {len(samples)} images has a weight above 0, so there is nothing to train "
            "on. Generate more images, or lower the threshold of the audit."
        )
    real = torch.zeros(len(samples), dtype=torch.bool)
    share, least = 1.0, 0.0
    if isinstance(settings, DstmSettings):
        least, wanted = settings.min_class_weight, settings.synthetic_share
        # A session resolves "auto" before training; outside a session the default applies.
        share = DEFAULT_SHARE if wanted == "auto" else wanted
        real = real if is_real is None else torch.from_numpy(is_real)
    if real_alone:
        weights *= real
    if not settings.balance_classes and not real.any():
        return weights
    classes = torch.from_numpy(samples.classes)

    def totals(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n_classes = int(classes.max()) + 1
        return torch.bincount(classes, weights=values * mask, minlength=n_classes)

    real_totals, synthetic_totals = totals(weights, real), totals(weights, ~real)
    trust = (
        (totals(weights**2, ~real) / least).clamp(max=1) if least else torch.ones(len(real_totals))
    )
    has_both = (real_totals > 0) & (synthetic_totals > 0)
    shares = torch.where(has_both, share * trust, (real_totals == 0).double())
    full = torch.where(real_totals > 0, 1.0, trust)
    class_totals = full if settings.balance_classes else real_totals + synthetic_totals
    within = torch.where(
        real,
        (1 - shares)[classes] * weights / real_totals.clamp(min=1e-12)[classes],
        shares[classes] * (weights / synthetic_totals.clamp(min=1e-12)[classes]),
    )
    return class_totals[classes] * within


def effective_size(chances: torch.Tensor) -> float:
    """Return (sum p)^2 / sum p^2, the effective sample size of unequal chances (Kish 1965)."""
    return float(chances.sum() ** 2 / (chances**2).sum())


def class_frequencies(samples: Pool, chances: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return the sampling frequency of each class, summing to 1, float64, (n_classes,)."""
    totals = torch.bincount(torch.from_numpy(samples.classes), weights=chances, minlength=n_classes)
    return totals / totals.sum()


def _log_ratio(
    samples: Pool, chances: torch.Tensor, goals: torch.Tensor, n_classes: int
) -> torch.Tensor:
    """Return the log ratio of class frequencies under two sampling distributions.

    float32, (n_classes,); a class that is never sampled counts as the rarest.
    """
    logarithms = []
    for drawn in (chances, goals):
        frequencies = class_frequencies(samples, drawn, n_classes)
        least = float(frequencies[frequencies > 0].min())
        logarithms.append(frequencies.clamp(min=least).log().float())
    return logarithms[0] - logarithms[1]


class Mix:
    """Mixing of photographs and generated images at each step of a training.

    Attributes:
        finish: First step that samples photographs alone; the number of steps if there is none.
        finish_freezes: Whether only the new layers are trained from that step on.
    """

    def __init__(
        self,
        samples: Pool,
        n_classes: int,
        settings: TrainSettings,
        is_real: NDArray[np.bool_] | None,
    ) -> None:
        self._chances = self._real_chances = sampling_chances(samples, settings, is_real)
        self.finish, self.finish_freezes = settings.steps, False
        self._weights: torch.Tensor | None = None
        self._adjustments: list[torch.Tensor] = []
        if not isinstance(settings, DstmSettings):
            return
        if is_real is not None and is_real.any() and not is_real.all():
            self._mix(samples, settings, is_real)
        if settings.logit_adjustment:
            balanced = settings.model_copy(update={"balance_classes": True})
            # As with balanced sampling, a class that the audit rejects gets a lower total.
            goals = sampling_chances(samples, balanced, is_real)
            self._adjustments = [
                settings.logit_adjustment * _log_ratio(samples, chances, goals, n_classes)
                for chances in (self._chances, self._real_chances)
            ]

    def _mix(self, samples: Pool, settings: DstmSettings, is_real: NDArray[np.bool_]) -> None:
        if settings.synthetic_weight != 1:
            weights = torch.where(torch.from_numpy(is_real), 1.0, settings.synthetic_weight)
            # Normalised to an expectation of 1, which preserves the meaning of the learning rate.
            self._weights = weights * self._chances.sum() / (weights * self._chances).sum()
        if settings.real_finish:
            self.finish = round(settings.steps * (1 - settings.real_finish))
            self.finish_freezes = settings.finish_layers == "last"
            self._real_chances = sampling_chances(samples, settings, is_real, real_alone=True)

    def chances(self, step: int) -> torch.Tensor:
        """Return the sampling probability of each image at a step, see `sampling_chances`."""
        return self._chances if step < self.finish else self._real_chances

    def adjustment(self, step: int) -> torch.Tensor | None:
        """Return the logit adjustment of the loss at a step, (n_classes,); None: no adjustment."""
        return self._adjustments[step >= self.finish] if self._adjustments else None

    def weights(self, step: int) -> torch.Tensor | None:
        """Return the loss weight of each image at a step, float32, (n,); None: all 1."""
        return self._weights.float() if self._weights is not None and step < self.finish else None
