from __future__ import annotations

import numpy as np
import pytest
import torch

from tools import patch_basis
from tools.generators.mtdm import Prediction, new_pipeline


def test_basis_keeps_the_asked_share_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    # Eight numbers that vary in two directions; four that vary in all, the first the most.
    few = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 8))
    many = rng.normal(size=(500, 4)) * [3, 1, 1, 1]
    patches = np.concatenate([few, many], axis=1).astype(np.float32)
    basis = patch_basis.fit(patches, [(8, 0.999), (4, 0.7)]).astype(np.float32)
    assert basis.shape == (3, 12)
    assert basis @ basis.T == pytest.approx(np.eye(3), abs=1e-2)
    kept = patches @ basis.T @ basis
    assert kept[:, :8] == pytest.approx(patches[:, :8], abs=0.05)
    assert abs(basis[2, 8]) > 0.99
    assert (basis[:2, 8:] == 0).all()
    assert (basis[2:, :8] == 0).all()


def test_basis_of_what_never_varies_and_of_everything() -> None:
    patches = np.zeros((10, 6), np.float32)
    patches[:, 4:] = np.random.default_rng(0).normal(size=(10, 2))
    basis = patch_basis.fit(patches, [(4, 0.9), (2, 1.0)])
    assert len(basis) == 3
    restored = patch_basis.restored(patch_basis.stored(basis))
    assert restored == pytest.approx(basis.astype(np.float32))
    assert patch_basis.restored(patch_basis.stored(None)) is None


@pytest.mark.parametrize("prediction", ["velocity", "clean"])
def test_noise_outside_of_the_basis_is_known_without_learning(prediction: Prediction) -> None:
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(48, 10)))[0].T.astype(np.float16)
    torch.manual_seed(0)
    pipeline = new_pipeline(
        (3, 16, 16), 4, (16, 32), 0.5, 0.25, prediction=prediction, basis=patch_basis.stored(rows)
    )
    assert pipeline.unet.config.in_channels == 10
    clean = pipeline.within(torch.randn(1, 48, 4, 4))
    noise = torch.randn(1, 48, 4, 4)
    t = torch.tensor([300])
    a = pipeline.scheduler.alphas_cumprod[300]
    noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
    with torch.inference_mode():
        said = pipeline.predict(noisy, t, torch.zeros(1, 2, 384), torch.ones(1, 2).long())
    outside = said - pipeline.within(said)
    true = a.sqrt() * noise - (1 - a).sqrt() * clean
    wanted = true - pipeline.within(true) if prediction == "velocity" else torch.zeros_like(true)
    assert outside.numpy() == pytest.approx(wanted.numpy(), abs=0.02)
