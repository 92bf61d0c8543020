"""The audit's limits per class, against classes and photographs whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.data.samples import Samples
from tools.labelers.audit import N_FOLDS, AuditClassifier, train_audit
from tools.settings import AuditSettings, TrainSettings

# Photographs of each class in the audit split: the last three are rare, one of them too rare.
N_REAL = (150, 150, 150, 150, 30, 30, 12)
TOO_RARE = 6
TRAIN = TrainSettings(steps=40, batch_size=32, learning_rate=0.01)


@dataclass(frozen=True)
class Grays:
    """Noise whose brightness is the class; neighbours are often mistaken."""

    name: str = "grays"
    flips: tuple[str, ...] = ()
    class_names: tuple[str, ...] = tuple(f"gray {i}" for i in range(len(N_REAL)))

    def draw(self, counts: tuple[int, ...], seed: int) -> Samples:
        rng = np.random.default_rng(seed)
        classes = np.repeat(np.arange(len(counts)), counts)
        brightness = 40 + 30 * classes + rng.normal(0, 10, len(classes))
        images = brightness[:, None, None, None] + rng.normal(0, 10, (len(classes), 1, 8, 8))
        return Samples(
            images=images.clip(0, 255).astype(np.uint8),
            classes=classes,
            attributes=[{}] * len(classes),
            ids=[f"{seed}-{i}" for i in range(len(classes))],
        )

    def split(self, name: str) -> Samples:
        return self._audit

    @cached_property
    def _audit(self) -> Samples:
        return self.draw(N_REAL, seed=1)


@pytest.fixture(scope="module")
def grays() -> Any:
    return Grays()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def audit(grays: Any, cache_dir: Path) -> AuditClassifier:
    return train_audit(grays, AuditSettings(train=TRAIN, real_rejected=0.1), cache_dir)


def by_class(audit: AuditClassifier, samples: Samples, classes: Any) -> list[float]:
    kept = audit.verify(replace(samples, classes=classes))[2]
    return [float(kept[samples.classes == i].mean()) for i in range(len(N_REAL))]


def test_new_real_photographs_of_every_class_are_kept(
    grays: Any, audit: AuditClassifier, cache_dir: Path
) -> None:
    new = grays.draw((200,) * len(N_REAL), seed=2)
    kept = by_class(audit, new, new.classes)
    assert min(kept) >= 0.8
    one_for_all = train_audit(grays, AuditSettings(train=TRAIN, threshold=0.5), cache_dir)
    assert min(by_class(one_for_all, new, new.classes)) < 0.6


def test_images_of_other_classes_are_rejected(grays: Any, audit: AuditClassifier) -> None:
    new = grays.draw((200,) * len(N_REAL), seed=3)
    others = (new.classes + 3) % len(N_REAL)
    kept = audit.verify(replace(new, classes=others))[2]
    known = others != TOO_RARE
    assert kept[known].mean() < 0.1


def test_it_abstains_where_it_knows_too_little(grays: Any, audit: AuditClassifier) -> None:
    assert audit.abstains == (grays.class_names[TOO_RARE],)
    wrong = grays.draw((50,) * len(N_REAL), seed=4)
    _, weights, kept = audit.verify(replace(wrong, classes=np.full(len(wrong), TOO_RARE)))
    assert kept.all()
    assert (weights == 1).all()


def test_weights_fall_with_the_probability(grays: Any, audit: AuditClassifier) -> None:
    new = grays.draw((40,) * len(N_REAL), seed=5)
    _, weights, kept = audit.verify(replace(new, classes=(new.classes + 1) % len(N_REAL)))
    assert ((weights == 1) == kept).all()
    assert (weights >= audit.settings.floor).all()
    # Of 150 photographs of a class 15 are needed.
    between = weights[(weights < 1) & (weights > audit.settings.floor)] * 15
    assert between == pytest.approx(between.round())


def test_a_threshold_counts_for_all_classes(grays: Any, cache_dir: Path) -> None:
    stored = AuditSettings.model_validate({"threshold": 0.5, "floor": 0.25, "train": TRAIN})
    audit = train_audit(grays, stored, cache_dir)
    p_label, weights, kept = audit.verify(grays.split("audit"))
    assert np.array_equal(kept, p_label >= 0.5)
    assert np.array_equal(weights, np.clip(p_label / 0.5, 0.25, 1))
    assert audit.abstains == ()


def test_limits_are_computed_once(grays: Any, cache_dir: Path, audit: AuditClassifier) -> None:
    steps: list[int] = []
    settings = audit.settings.model_copy(update={"real_rejected": 0.3})
    again = train_audit(grays, settings, cache_dir, progress=lambda done, n: steps.append(done))
    assert steps == []
    assert len(again.models) == N_FOLDS
    new = grays.draw((40,) * len(N_REAL), seed=6)
    assert again.verify(new)[2].sum() < audit.verify(new)[2].sum()
