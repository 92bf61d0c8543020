"""Near copies of training photographs among generated images, and the power of the search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from eval.metrics import wilson
from memory.records import Estimate, Record

FALSE_ALARMS = 0.01
"""Largest share of unseen photographs that the limit takes for near copies."""


class Pair(Record):
    """An image, its nearest photograph and their score, see `tools.models.copies`."""

    image: str
    photograph: str
    score: float


class Copies(Record):
    """Near copies of the photographs that a generator was trained on.

    Attributes:
        n_photographs: Number of photographs that images were compared with.
        limit: Score below which an image is a near copy.
        power: Share of planted copies of these photographs that are found.
        found: Share of the images that are near copies.
        prompts: The same by prompt, for prompts with near copies.
        pairs: Near copies with their photographs, the closest first.
    """

    n_photographs: int
    limit: float
    power: Estimate
    found: Estimate
    prompts: Mapping[str, Estimate] = {}
    pairs: tuple[Pair, ...] = ()

    @property
    def n_found(self) -> int:
        """The number of images that are near copies."""
        return round(self.found.value * self.found.n)

    @property
    def suspicious(self) -> bool:
        """Whether there are significantly more near copies than among unseen photographs."""
        return self.found.low > FALSE_ALARMS

    def say(self) -> str:
        """Return the result as sentences."""
        return (
            f"{self.n_found} of {self.found.n} images are near copies of photographs that the "
            f"generator was trained on; of unseen photographs at most {FALSE_ALARMS:.0%} would "
            f"count as such. {self.power.value:.0%} of planted copies are found."
        )


def copies_by_prompt(prompts: list[str], copied: list[bool]) -> dict[str, Estimate]:
    """Return the share of near copies of each prompt with at least one, the largest first.

    Args:
        prompts: The prompt of each image.
        copied: Whether each image is a near copy.
    """
    n_found = Counter(p for p, c in zip(prompts, copied, strict=True) if c)
    shares = {name: wilson(n, prompts.count(name)) for name, n in n_found.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1].value))
