"""Cross-fitting, for few photographs: each fold is predicted by a model trained on the others.

The splits audit and feedback are merged, which doubles the number of photographs for evaluation.
They are divided into folds, and each fold is predicted by a model trained on all others. The
delivered model is trained on all of them. The split generator is in no fold: an MTDM may have been
trained on it, and its images would leak into every model. The test split stays sealed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from memory.errors import SettingsError
from tools.data.samples import Samples, concatenate
from tools.settings import AuditSettings
from tools.targets import Image, Target, check_split, licence_of
from tools.targets.splits import connected_groups, split_groups


class CrossFitted:
    """A target whose split feedback contains audit and feedback; see `tools.targets.Target`.

    Attributes:
        whole: The target with its original splits.
    """

    def __init__(self, target: Target, n_folds: int) -> None:
        self.whole = target
        self.name, self.task = target.name, target.task
        self.image_shape = target.image_shape
        self.class_names, self.pixel_classes = target.class_names, target.pixel_classes
        self.vocabulary, self.flips = target.vocabulary, target.flips
        self.licence = licence_of(target)
        alone, judged, test = (
            len(source.split(name))
            for source, name in ((target, "feedback"), (self, "feedback"), (target, "test"))
        )
        self.notice = (
            f"{target.notice}\nFew photographs: the split feedback alone has {alone}, so the "
            f"{judged} of audit and feedback are judged in {n_folds} folds, each by a model that "
            f"has not learnt from it. A round trains {n_folds + 1} models, and keeps the one that "
            "learns from all but the test. There is no audit. "
            f"The sealed test has {test} photographs"
        )
        if self.task == "classification":
            points = 98 / max(test, 1) ** 0.5
            self.notice += f": an accuracy of 50% is known there to {points:.0f} points up or down"
        self.notice += "."

    def split(self, name: str) -> Samples:
        """Return a split; audit is empty."""
        check_split(name)
        audit = self.whole.split("audit")
        if name == "audit":
            return audit.take(())
        samples = self.whole.split(name)
        return concatenate([audit, samples]) if name == "feedback" else samples

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        """Return the attributes of the mirrored image."""
        return self.whole.flip(attributes, horizontal, vertical)

    def measure(self, image: Image, attributes: Mapping[str, str]) -> dict[str, str]:
        """Return the attributes that can be measured on an image."""
        return self.whole.measure(image, attributes)


def cross_fitted(target: Target, n_folds: int, audit: AuditSettings) -> CrossFitted:
    """Return a target with audit and feedback merged into one split.

    Raises:
        SettingsError: An audit is set, which would be trained on evaluated photographs.
    """
    if audit.method != "none":
        raise SettingsError(
            f"feedback.folds={n_folds} judges the photographs of the split audit, so none can be "
            f"learnt by an audit ({audit.method}): set audit.method=none, or feedback.folds=null."
        )
    return CrossFitted(target, n_folds)


def undivided(target: Target) -> Target:
    """Return a target with its original splits."""
    return target.whole if isinstance(target, CrossFitted) else target


def fold_rows(samples: Samples, n_folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Divide samples into folds with equal shares of each class; copies and groups stay together.

    Args:
        samples: n images.
        n_folds: Number of folds, at least 2.
        seed: Seed of the random order.

    Returns:
        Ascending rows of each fold; fewer folds if there are too few images.
    """
    first: dict[str, int] = {}
    edges = []
    for row, image in enumerate(samples.images):
        marks = [hashlib.sha256(image.tobytes()).hexdigest(), *samples.groups[row : row + 1]]
        edges += [(row, first.setdefault(mark, row)) for mark in marks]
    groups = connected_groups(len(samples), *zip(*edges, strict=True))
    shares = {str(fold): 1 / n_folds for fold in range(n_folds)}
    strata = [str(number) for number in samples.classes]
    folds = split_groups(groups, strata, shares, seed).values()
    return [np.array(rows) for rows in folds if rows]
