from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.mtdm import denoising_error
from tests.tools.pretraining.test_pretrain import QUICK, StreetTarget, TinyTarget
from tools.data.samples import Samples
from tools.diffusion.label_codes import LabelCodes
from tools.diffusion.pipeline import MTDMPipeline
from tools.diffusion.weights import load_pipeline, new_pipeline
from tools.pretraining.pretrain import pretrain


def silent_pipeline() -> tuple[MTDMPipeline, Samples]:
    """Return a pipeline that says nought of every image, and the samples it is asked about."""
    target = StreetTarget()
    samples = target.split("test")
    codes = LabelCodes.of(samples, target.pixel_classes)
    pixels = samples.images / 255
    pipeline = new_pipeline(
        target.image_shape, 4, (16, 32), pixels.mean(), pixels.std(), codes, "clean"
    )
    torch.nn.init.zeros_(pipeline.unet.conv_out.weight)
    torch.nn.init.zeros_(pipeline.unet.conv_out.bias)
    return pipeline, samples


def test_saying_nought_has_the_variance_of_whitened_values_as_its_error() -> None:
    pipeline, samples = silent_pipeline()
    found = denoising_error(pipeline, samples, ["a street"] * 4, levels=(10, 900))
    assert list(found) == [10, 900]
    for error in found.values():
        assert error["image"] == pytest.approx(1, abs=0.01)
        # Pixels without depth are left out: with them it would be less.
        assert error["labels"] == pytest.approx(1, abs=0.05)


def test_an_mtdm_without_labels_has_an_error_of_its_images_alone(tmp_path: Path) -> None:
    target = TinyTarget()
    pipeline = pretrain(target, QUICK, tmp_path)
    found = denoising_error(pipeline, target.split("test"), ["a cell"] * 4, levels=(500,))
    assert list(found[500]) == ["image"]
    assert np.isfinite(found[500]["image"])


def test_training_in_either_precision_ends_at_nearly_the_same_weights(tmp_path: Path) -> None:
    target = StreetTarget()
    found = {}
    for precision in ("auto", "float32", "bfloat16"):
        settings = QUICK.model_copy(update={"precision": precision})
        pipeline = pretrain(target, settings, tmp_path / precision)
        found[precision] = denoising_error(pipeline, target.split("test"), ["a street"] * 4, (500,))
        assert load_pipeline(tmp_path / precision / "pipeline").unet.dtype == torch.float32
    for precision in ("float32", "bfloat16"):
        labels = found[precision][500]["labels"]
        assert labels == pytest.approx(found["auto"][500]["labels"], rel=0.02)
