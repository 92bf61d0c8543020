"""What only a GPU shows: other arithmetic, other precision, models that change devices."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.tools.tiny_diffusers import MODELS
from tests.tools.tiny_scenes import Scenes
from tools import generators, tasks
from tools.data.drawn import ImageRequest
from tools.diffusion.weights import new_pipeline
from tools.generators import Generator
from tools.generators.text2image.model_options import ModelOptions
from tools.models.dstm_file import load_model, save_model
from tools.pretraining.joint import pretrain_joint
from tools.settings import JointSettings, TrainSettings
from tools.train_dstm import train_model

pytestmark = [
    pytest.mark.gpu,
    # diffusers 0.42 has not followed numpy 2 everywhere.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

GPU = "cuda"
REQUESTS = [
    ImageRequest(["a dark cell", "a street, by night"][i % 2], f"p{i % 2}", i, 0) for i in range(5)
]


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def alone(generator: Generator) -> NDArray[np.uint8]:
    return np.concatenate([generator.draw([request]).images for request in REQUESTS])


def test_an_mtdm_draws_the_same_on_both_devices_and_in_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    new_pipeline((1, 64, 64), 4, (16, 32), 0.6, 0.2).save_pretrained(tmp_path)
    on_cpu, on_gpu = (
        generators.build("mtdm", (1, 64, 64), device, weights=str(tmp_path))
        for device in ("cpu", GPU)
    )
    together = on_gpu.draw(REQUESTS).images
    assert difference(together, alone(on_gpu)) <= 1
    # Convolutions of a GPU round to TF32.
    assert difference(together, on_cpu.draw(REQUESTS).images) <= 8


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_public_model_draws_the_same_in_any_batch(kind: str, tmp_path: Path) -> None:
    MODELS[kind](tmp_path)
    options = {"weights": str(tmp_path), "steps": 2, "size": 32}
    generator = generators.build("text2image", (3, 16, 24), GPU, **options)
    # In bfloat16.
    assert difference(generator.draw(REQUESTS).images, alone(generator)) <= 8


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_weights_in_8_bits_change_images_but_little(sd: Path) -> None:
    def images(kind: str) -> NDArray[np.uint8]:
        options = {"weights": str(sd), "steps": 2, "quantize": kind, "dtype": "bfloat16"}
        return generators.build("text2image", (3, 16, 24), GPU, **options).draw(REQUESTS).images

    assert np.abs(images("int8").astype(int) - images("none").astype(int)).mean() < 4


def test_a_dstm_that_learnt_on_a_gpu_is_read_on_a_processor(
    target: Any, quick: TrainSettings, tmp_path: Path
) -> None:
    task = tasks.build("classification")
    model, loss = train_model(target.split("generator"), task, 2, quick, GPU)
    assert loss < 0.68
    images = target.split("test").images
    save_model(tmp_path, model, {"task": task.name})
    on_cpu = task.predict(load_model(tmp_path, "cpu")[0], images)
    assert task.predict(model, images) == pytest.approx(on_cpu, abs=0.02)


def test_a_joint_model_that_learnt_on_a_gpu_draws_on_either_device(
    sd: Path, tmp_path: Path
) -> None:
    scenes = Scenes()
    settings = JointSettings(steps=6, rank=2, warmup_steps=1, save_every=6)
    options = ModelOptions(weights=str(sd), size=(16, 24))
    joint = pretrain_joint(scenes, options, settings, tmp_path, GPU)
    for device in (GPU, "cpu"):
        generator = generators.build(
            "joint", scenes.image_shape, device, weights=str(sd), joint=str(joint), steps=2
        )
        assert set(generator.draw(REQUESTS).labels) == {"segmentation", "depth", "normals"}
