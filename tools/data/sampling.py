"""How often each image is drawn in a training, of generated ones and of photographs.

Within a class an image's chance is proportional to its weight; where it has photographs, generated
images have a share of its total. With `balance_classes` classes have equal totals, without they are
as frequent as their images, and the loss may make up for it (`logit_adjustment`). Generated images
count in full from an evidence of `min_class_weight` on, and in proportion below it, so that a class
of which the audit keeps next to nothing is not drawn as often as others from what the audit
rejects. As weights are at most 1, no generated image has more than 1 / min_class_weight of its
class's share.
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
    """Return the chance of each image to be drawn, up to a factor, float64, (n,).

    For class c with weights w_i of its images, evidence e_c = sum of w_i^2 over its generated
    images, and t_c = min(1, e_c / min_class_weight): a class of both kinds draws generated images
    with the share s_c = synthetic_share t_c, and its total is 1; a class of generated images alone
    has the total t_c; a class of photographs alone 1. Without `balance_classes` the total is the
    sum of the weights instead.

    `prompt_weights` are factors of w_i by the prompt of a generated image.

    Args:
        samples: n images.
        settings: Of the training; of a `TrainSettings` that is no `DstmSettings`, min_class_weight
            is 0, and all images are of one kind.
        is_real: Which images are photographs, (n,); None: none.
        real_alone: Whether generated images are not drawn.

    Raises:
        DataError: No image has a weight above 0.
    """
    weights = torch.from_numpy(samples.weights).double().clone()
    if isinstance(settings, DstmSettings) and settings.prompt_weights:
        of_prompt = settings.prompt_weights
        factors = [of_prompt.get(name.rpartition("-")[0], 1.0) for name in samples.ids]
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
        # A session chooses first; without one there is no round to choose in.
        share = DEFAULT_SHARE if wanted == "auto" else wanted
        real = real if is_real is None else torch.from_numpy(is_real)
    if real_alone:
        weights *= real
    if not settings.balance_classes and not real.any():
        return weights
    classes = torch.from_numpy(samples.classes)

    def totals(values: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        n_classes = int(classes.max()) + 1
        return torch.bincount(classes, weights=values * of, minlength=n_classes)

    of_real, of_synthetic = totals(weights, real), totals(weights, ~real)
    trust = (totals(weights**2, ~real) / least).clamp(max=1) if least else torch.ones(len(of_real))
    has_both = (of_real > 0) & (of_synthetic > 0)
    shares = torch.where(has_both, share * trust, (of_real == 0).double())
    full = torch.where(of_real > 0, 1.0, trust)
    of_class = full if settings.balance_classes else of_real + of_synthetic
    within = torch.where(
        real,
        (1 - shares)[classes] * weights / of_real.clamp(min=1e-12)[classes],
        shares[classes] * (weights / of_synthetic.clamp(min=1e-12)[classes]),
    )
    return of_class[classes] * within


def effective_size(chances: torch.Tensor) -> float:
    """Return (sum p)^2 / sum p^2, the effective sample size of unequal chances (Kish 1965)."""
    return float(chances.sum() ** 2 / (chances**2).sum())


def class_frequencies(samples: Pool, chances: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Return how often each class is drawn, in sum 1, float64, (n_classes,)."""
    totals = torch.bincount(torch.from_numpy(samples.classes), weights=chances, minlength=n_classes)
    return totals / totals.sum()


def _log_ratio(
    samples: Pool, chances: torch.Tensor, goals: torch.Tensor, n_classes: int
) -> torch.Tensor:
    """Return how often classes are drawn by some chances against others, as logarithms.

    float32, (n_classes,); a class that is never drawn counts as the rarest.
    """
    logarithms = []
    for drawn in (chances, goals):
        frequencies = class_frequencies(samples, drawn, n_classes)
        least = float(frequencies[frequencies > 0].min())
        logarithms.append(frequencies.clamp(min=least).log().float())
    return logarithms[0] - logarithms[1]


class Mix:
    """How photographs and generated images are mixed at each step of a training.

    Attributes:
        finish: The step from which on photographs alone are drawn; the number of steps: none.
        finish_freezes: Whether the new layers alone are trained from then on.
    """

    def __init__(
        self,
        samples: Pool,
        n_classes: int,
        settings: TrainSettings,
        is_real: NDArray[np.bool_] | None,
    ) -> None:
        self._chances = self._of_real = sampling_chances(samples, settings, is_real)
        self.finish, self.finish_freezes = settings.steps, False
        self._weights: torch.Tensor | None = None
        self._adjustments: list[torch.Tensor] = []
        if not isinstance(settings, DstmSettings):
            return
        if is_real is not None and is_real.any() and not is_real.all():
            self._mix(samples, settings, is_real)
        if settings.logit_adjustment:
            balanced = settings.model_copy(update={"balance_classes": True})
            # A class that the audit rejects counts less, as where classes are drawn alike.
            goals = sampling_chances(samples, balanced, is_real)
            self._adjustments = [
                settings.logit_adjustment * _log_ratio(samples, chances, goals, n_classes)
                for chances in (self._chances, self._of_real)
            ]

    def _mix(self, samples: Pool, settings: DstmSettings, is_real: NDArray[np.bool_]) -> None:
        if settings.synthetic_weight != 1:
            weights = torch.where(torch.from_numpy(is_real), 1.0, settings.synthetic_weight)
            # In expectation 1, so that the learning rate keeps its meaning.
            self._weights = weights * self._chances.sum() / (weights * self._chances).sum()
        if settings.real_finish:
            self.finish = round(settings.steps * (1 - settings.real_finish))
            self.finish_freezes = settings.finish_layers == "last"
            self._of_real = sampling_chances(samples, settings, is_real, real_alone=True)

    def chances(self, step: int) -> torch.Tensor:
        """Return the chance of each image at a step, see `sampling_chances`."""
        return self._chances if step < self.finish else self._of_real

    def adjustment(self, step: int) -> torch.Tensor | None:
        """Return what is added to the outputs in the loss at a step, (n_classes,); None: 0."""
        return self._adjustments[step >= self.finish] if self._adjustments else None

    def weights(self, step: int) -> torch.Tensor | None:
        """Return each image's weight in the loss at a step, float32, (n,); None: all 1."""
        return self._weights.float() if self._weights is not None and step < self.finish else None
