"""The labeler `marigold` on tiny pipelines of diffusers' real classes, built and saved here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    LCMScheduler,
    MarigoldDepthPipeline,
    MarigoldNormalsPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

from benchmarks.architectures import tokenizer
from memory.errors import SettingsError, WeightsError
from tests.tools.tiny_diffusers import text_config, vae
from tools import labelers
from tools.compute.worker import Recipe
from tools.data.drawn import ImageRequest
from tools.data.samples import Images, Samples
from tools.diffusion.sampler import seeded_generator
from tools.generators.toy import ToyGenerator
from tools.labelers.marigold import Marigold, facing

SHAPE = (3, 16, 24)
LINEAR: dict[str, Any] = {"depth_output": "linear", "depth_scale": 50.0}


def save(kind: type, folder: Path, scheduler: type = DDIMScheduler, **more: Any) -> Path:
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    kind(
        unet=network,
        vae=vae(),
        scheduler=scheduler(prediction_type="v_prediction"),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        default_denoising_steps=2,
        default_processing_resolution=24,
        **more,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def depth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depth")
    return save(MarigoldDepthPipeline, folder, prediction_type="depth")


@pytest.fixture(scope="module")
def normals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("normals")
    more: dict[str, Any] = {"prediction_type": "normals", "use_full_z_range": True}
    return save(MarigoldNormalsPipeline, folder, **more)


def make(**options: Any) -> Marigold:
    found = labelers.build("marigold", ToyGenerator(SHAPE, 1), (), **options)
    assert isinstance(found, Marigold)
    return found


def images(n: int) -> Images:
    return np.random.default_rng(0).integers(0, 255, (n, *SHAPE), dtype=np.uint8)


def test_depth_is_what_the_pipeline_says_times_the_scale(depth: Path) -> None:
    labels, confidence = make(depth=str(depth), **LINEAR).label(images(2))
    pipeline = MarigoldDepthPipeline.from_pretrained(depth)
    pipeline.set_progress_bar_config(disable=True)
    said = pipeline(
        torch.from_numpy(images(2)) / 255,
        generator=[seeded_generator(0, "marigold", 0) for _ in range(2)],
        batch_size=2,
        output_type="pt",
    ).prediction[:, 0]
    known = said > 1e-3
    assert known.any()
    assert labels["depth"][known] == pytest.approx(50 * said[known].numpy(), rel=1e-3)
    assert np.isnan(labels["depth"][~known]).all()
    assert confidence == {}
    cut = make(depth=str(depth), farthest_m=20, **LINEAR).label(images(2))[0]["depth"]
    assert np.nanmax(cut) <= 20 < np.nanmax(labels["depth"])


def test_normals_have_our_axes_and_face_the_camera(normals: Path) -> None:
    said = np.array([[0.6, 0, 0.8], [0, 1, 0], [0, 0.6, -0.8], [0, 0, 0]], np.float32)
    found = facing(said.T[None, :, :, None])[0, :, :, 0].T
    # A floor's normals point up, which is -y; what faces the viewer has a negative z.
    assert found[0] == pytest.approx([0.6, 0, -0.8])
    assert found[1] == pytest.approx([0, -1, 0])
    assert np.isnan(found[2:]).all()
    labels, _ = make(normals=str(normals)).label(images(2))
    values = labels["normals"]
    known = np.isfinite(values[:, 0])
    assert 0 < known.mean() < 1
    lengths = np.linalg.norm(values, axis=1)[known]
    assert lengths == pytest.approx(np.ones_like(lengths), abs=1e-5)
    Samples(images(2), np.zeros(2, np.int64), [{}] * 2, ["a", "b"], labels=labels)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, LCMScheduler])
def test_labels_of_an_image_do_not_depend_on_the_others(scheduler: type, tmp_path: Path) -> None:
    save(MarigoldDepthPipeline, tmp_path, scheduler, prediction_type="depth")
    labeler = make(depth=str(tmp_path), **LINEAR)
    together = labeler.label(images(3))[0]["depth"]
    alone = np.concatenate([labeler.label(images(3)[i : i + 1])[0]["depth"] for i in range(3)])
    assert together == pytest.approx(alone, abs=0.02, nan_ok=True)


def test_members_give_a_confidence(depth: Path, normals: Path) -> None:
    labeler = make(depth=str(depth), normals=str(normals), members=3, **LINEAR)
    assert labeler.kinds == ["depth", "normals"]
    labels, confidence = labeler.label(images(2))
    for kind in labels:
        assert confidence[kind].shape == (2, *SHAPE[1:])
        assert 0 <= confidence[kind].min() < confidence[kind].max() <= 1
    others = [
        make(depth=str(depth), normals=str(normals), **LINEAR),
        make(depth=str(depth), normals=str(normals), members=3, steps=3, **LINEAR),
        make(depth=str(depth), members=3, **LINEAR),
    ]
    assert len({labeler.identity, *(other.identity for other in others)}) == 4


def test_labels_come_with_the_images_of_a_generator(normals: Path) -> None:
    recipe = Recipe("toy", SHAPE, {}, "marigold", (), {"normals": str(normals)})
    drawn = recipe.build("cpu").draw([ImageRequest("a cell", "p", i, 0) for i in range(2)])
    assert drawn.labels["normals"].shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "labeler.options.depth_output=linear and depth_scale"),
        ({"depth_output": "metres"}, "is metres, but .* is linear"),
        ({"depth_output": "inverse", "depth_scale": 2.0}, "is inverse, but .* is linear"),
        ({"depth_output": "linear"}, "needs a depth_scale"),
        ({"members": 2, **LINEAR}, "no better than 1"),
        ({"resolution": 15, **LINEAR}, "multiples of 2"),
        ({"segmentation": "x"}, "key of labeler.options 'segmentation'.*depth_output"),
    ],
)
def test_options_that_cannot_be_used(depth: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        make(depth=str(depth), **options)


def test_folders_that_cannot_be_used(depth: Path, normals: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs a model"):
        make()
    with pytest.raises(WeightsError, match="no model_index"):
        make(normals=str(tmp_path))
    with pytest.raises(WeightsError, match=r"is a MarigoldDepthPipeline, but .*options.normals"):
        make(normals=str(depth))
    partial = shutil.copytree(normals, tmp_path / "partial")
    file = partial / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(WeightsError, match="is a pickle"):
        make(normals=str(partial))
    disparity = save(MarigoldDepthPipeline, tmp_path / "disparity", prediction_type="disparity")
    with pytest.raises(SettingsError, match="is inverse"):
        make(depth=str(disparity), **LINEAR)
    labels, _ = make(depth=str(disparity), depth_output="inverse", depth_scale=2.0).label(images(1))
    assert np.nanmin(labels["depth"]) >= 2
