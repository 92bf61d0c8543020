from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memory.errors import WeightsError
from tools.data.samples import Samples
from tools.labelers.audit import train_audit
from tools.settings import AuditSettings, TrainSettings


@pytest.fixture(scope="session")
def settings(quick: TrainSettings) -> AuditSettings:
    return AuditSettings(train=quick, threshold=0.6, floor=0.2)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_it_judges_by_the_label(target: Any, settings: AuditSettings, cache_dir: Path) -> None:
    audit = train_audit(target, settings, cache_dir)
    samples = target.split("generator")
    p_label, weights, kept = audit.verify(samples)
    assert p_label.dtype == weights.dtype == np.float64
    assert p_label.shape == weights.shape == kept.shape == (80,)
    assert np.array_equal(kept, p_label >= 0.6)
    assert np.array_equal(weights, np.clip(p_label / 0.6, 0.2, 1))
    # A plain image may be a square in dim light; a square in good light is beyond doubt.
    clear = np.array([a["light"] == "good" for a in samples.attributes]) & (samples.classes == 1)
    assert kept[clear].mean() >= 0.8
    swapped = Samples(samples.images, 1 - samples.classes, samples.attributes, samples.ids)
    assert np.allclose(audit.verify(swapped)[0], 1 - p_label)
    assert audit.verify(swapped)[2][clear].mean() <= 0.2


def test_agreement(target: Any, settings: AuditSettings, cache_dir: Path) -> None:
    audit = train_audit(target, settings, cache_dir)
    feedback = target.split("feedback")
    p_label = audit.verify(feedback)[0]
    assert audit.agreement(feedback) == pytest.approx((p_label > 0.5).mean())


def test_it_is_trained_once(target: Any, settings: AuditSettings, tmp_path: Path) -> None:
    steps: list[int] = []

    def note(done: int, total: int) -> None:
        steps.append(done)

    first = train_audit(target, settings, tmp_path, progress=note)
    n_steps = len(steps)
    lenient = settings.model_copy(update={"threshold": 0.3})
    second = train_audit(target, lenient, tmp_path, progress=note)
    assert n_steps == len(steps) == settings.train.steps
    samples = target.split("feedback")
    assert np.array_equal(first.verify(samples)[0], second.verify(samples)[0])
    assert second.settings.threshold == 0.3
    train_audit(dataclasses.replace(target, n_images=60), settings, tmp_path, progress=note)
    assert len(steps) == 2 * n_steps


def test_it_is_deterministic(target: Any, settings: AuditSettings, tmp_path: Path) -> None:
    first, second = (train_audit(target, settings, tmp_path / name).models[0] for name in "ab")
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_damaged_cache_is_named(target: Any, settings: AuditSettings, tmp_path: Path) -> None:
    train_audit(target, settings, tmp_path)
    (folder,) = tmp_path.iterdir()
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=folder.name):
        train_audit(target, settings, tmp_path)


def test_no_images(target: Any, settings: AuditSettings, cache_dir: Path) -> None:
    audit = train_audit(target, settings, cache_dir)
    nothing = target.split("feedback").take([])
    assert [len(part) for part in audit.verify(nothing)] == [0, 0, 0]


def test_the_threshold_is_checked() -> None:
    with pytest.raises(ValueError, match="threshold"):
        AuditSettings(threshold=0)
