from __future__ import annotations

import numpy as np
import pytest
import torch

from tools.diffusion import patch_pca
from tools.diffusion.label_codes import LabelCodes
from tools.diffusion.preconditioning import Prediction
from tools.diffusion.sampler import seeded_noise
from tools.diffusion.weights import new_pipeline


def test_basis_keeps_the_asked_share_of_each_kind() -> None:
    rng = np.random.default_rng(0)
    # Eight numbers that vary in two directions; four that vary in all, the first the most.
    few = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 8))
    many = rng.normal(size=(500, 4)) * [3, 1, 1, 1]
    patches = np.concatenate([few, many], axis=1).astype(np.float32)
    x = patches.reshape(5, 10, 10, 12).transpose(0, 3, 1, 2)
    basis = patch_pca.fit(x, [(8, 0.999), (4, 0.7)]).astype(np.float32)
    assert basis.shape == (3, 12)
    assert basis @ basis.T == pytest.approx(np.eye(3), abs=1e-2)
    kept = patches @ basis.T @ basis
    assert kept[:, :8] == pytest.approx(patches[:, :8], abs=0.05)
    assert abs(basis[2, 8]) > 0.99
    assert (basis[:2, 8:] == 0).all()
    assert (basis[2:, :8] == 0).all()


def test_basis_of_what_never_varies_and_of_everything() -> None:
    x = np.zeros((10, 6, 1, 1), np.float32)
    x[:, 4:] = np.random.default_rng(0).normal(size=(10, 2, 1, 1))
    basis = patch_pca.fit(x, [(4, 0.9), (2, 1.0)])
    assert len(basis) == 3
    restored = patch_pca.restored(patch_pca.stored(basis))
    assert restored == pytest.approx(basis.astype(np.float32))
    assert patch_pca.restored(patch_pca.stored(None)) is None


@pytest.mark.parametrize("prediction", ["velocity", "clean", "residual"])
def test_nothing_is_expected_outside_of_the_basis(prediction: Prediction) -> None:
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(48, 10)))[0].T.astype(np.float16)
    torch.manual_seed(0)
    pipeline = new_pipeline(
        (3, 16, 16),
        4,
        (16, 32),
        0.5,
        0.25,
        prediction=prediction,
        basis=patch_pca.stored(rows),
        power=[[1.0] * 10] * 2 if prediction == "residual" else [],
    )
    assert pipeline.unet.config.in_channels == 10
    assert pipeline.prediction == prediction
    t = torch.tensor([300])
    with torch.inference_mode():
        said = pipeline.predict(
            torch.randn(1, 48, 4, 4), t, torch.zeros(1, 2, 384), torch.ones(1, 2).long()
        )
    assert pipeline.reconstruct(pipeline.project(said)).numpy() == pytest.approx(
        said.numpy(), abs=0.02
    )
    assert said.std() > 0.1


def test_power_that_neighbours_tell_is_not_a_channels_own() -> None:
    rng = np.random.default_rng(0)
    alone = rng.normal(size=(20, 8, 12))
    ramps = np.broadcast_to(np.linspace(-2, 2, 12), (20, 8, 12))
    x = np.stack([alone, ramps, 3 * ramps + 0.1 * alone], axis=1).astype(np.float32)
    power, own = patch_pca.powers(x)
    assert power == pytest.approx((x**2).mean((0, 2, 3)), rel=1e-3)
    quarter = 0.25
    assert own[0] == pytest.approx(quarter, rel=0.1)
    assert own[1] < 1e-6
    assert own[2] == pytest.approx(quarter * 0.01, rel=0.3)


def test_drawing_in_a_basis_of_everything_changes_nothing() -> None:
    codes = LabelCodes(
        kinds=("segmentation",), class_names=("road", "sky"), mean=(0,) * 2, std=(1,) * 2
    )
    drawn = []
    for basis in ("", patch_pca.stored(np.eye(80, dtype=np.float16))):
        torch.manual_seed(0)
        made = new_pipeline(
            (3, 16, 16), 4, (16, 32), 0.5, 0.25, codes, "clean", basis=basis, label_noise_offset=0.4
        )
        made.set_progress_bar_config(disable=True)
        noise = torch.stack([seeded_noise(0, "p", i, made.noise_shape) for i in range(2)])
        drawn.append(made(["a street", "a night"], noise, 4, 2.0, s_noise=(0.8, 0.9)))
    plain, turned = drawn
    assert np.abs(plain.images.astype(int) - turned.images.astype(int)).max() <= 1
    assert (plain.labels["segmentation"] == turned.labels["segmentation"]).all()
