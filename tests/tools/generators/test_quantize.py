"""Models of diffusers whose denoisers hold their weights in fewer bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memory.errors import SettingsError
from tests.tools.tiny_diffusers import MODELS, lora
from tools import generators
from tools.data.drawn import ImageRequest
from tools.generators import Generator
from tools.generators.text2image.model_options import ModelOptions
from tools.generators.text2image.quantize import quantization

# diffusers 0.42 has not followed numpy 2 everywhere.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

installed = importlib.util.find_spec("torchao") is not None
needs_torchao = pytest.mark.skipif(not installed, reason="needs torchao, the extra `quantize`")

SHAPE = (3, 16, 24)
REQUESTS = [
    ImageRequest(["a dark cell", "a street, by night"][i % 2], f"p{i % 2}", i, 0) for i in range(3)
]


def build(folder: Path, **options: Any) -> Generator:
    more = {"steps": 2, "quantize": "int8", **options}
    return generators.build("text2image", SHAPE, "cpu", weights=str(folder), **more)


def difference(one: Generator, other: Generator) -> float:
    """Mean difference of pixels, of 255."""
    a, b = (drawer.draw(REQUESTS).images.astype(int) for drawer in (one, other))
    return float(np.abs(a - b).mean())


@needs_torchao
@pytest.mark.parametrize("kind", MODELS)
def test_weights_are_held_in_8_bits_and_images_stay_the_same_but_little(
    kind: str, tmp_path: Path
) -> None:
    MODELS[kind](tmp_path)
    generator = build(tmp_path, size=32)
    pipeline = generator.pipeline  # type: ignore[attr-defined]
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    linear: list[Any] = [m for m in denoiser.modules() if isinstance(m, torch.nn.Linear)]
    assert {m.weight.qdata.dtype for m in linear} == {torch.int8}
    plain = build(tmp_path, size=32, quantize="none")
    assert 0 < difference(generator, plain) < 2
    assert generator.identity != plain.identity
    together = generator.draw(REQUESTS).images
    alone = np.concatenate([generator.draw([request]).images for request in REQUESTS])
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1


@needs_torchao
def test_adapters_go_on_top(sd: Path, tmp_path: Path) -> None:
    lora(tmp_path / "night")
    weighed = {"adapters": {str(tmp_path / "night"): 0.1}}
    generator = build(sd, **weighed)
    exact = difference(generator, build(sd, quantize="none", **weighed))
    assert exact < difference(generator, build(sd)) / 4


@pytest.mark.skipif(installed, reason="torchao is installed")
def test_without_torchao_it_is_refused(sd: Path) -> None:
    with pytest.raises(SettingsError, match=r"quantize=int8 needs .*torchao.*\[quantize\]"):
        build(sd)


def test_off_unless_set(sd: Path) -> None:
    assert quantization(ModelOptions(), {"unet": []}, torch.float32, "cpu") == {}
    assert build(sd, quantize="none").identity == build(sd, quantize=None).identity


def test_a_model_without_a_denoiser_that_it_knows_is_refused() -> None:
    index = {"_class_name": "StableCascadeCombinedPipeline", "decoder": [], "prior_prior": []}
    with pytest.raises(SettingsError, match=r"unet or a transformer; .* has decoder, prior_prior"):
        quantization(ModelOptions(quantize="int8"), index, torch.float32, "cpu")


@pytest.mark.parametrize(
    ("options", "dtype", "device", "match"),
    [
        ({}, torch.float16, "cpu", "bfloat16 or float32 on the device cpu, .* would be float16"),
        ({}, torch.float16, "cuda", "in bfloat16 on the device cuda, .* would be float16"),
        ({}, torch.float32, "cuda", "would be float32"),
        ({"offload": "model"}, torch.bfloat16, "cuda", "offload=model"),
    ],
)
def test_what_it_does_not_go_with_is_refused(
    options: dict[str, Any], dtype: torch.dtype, device: str, match: str
) -> None:
    asked = ModelOptions(quantize="int8", **options)
    with pytest.raises(SettingsError, match=match):
        quantization(asked, {"unet": []}, dtype, device)


def test_a_joint_model_is_left_as_it_is(sd: Path) -> None:
    with pytest.raises(SettingsError, match=r"'joint' takes no .*quantize"):
        generators.build("joint", SHAPE, "cpu", weights=str(sd), joint="any", quantize="int8")


def test_another_number_of_bits_is_refused(sd: Path) -> None:
    with pytest.raises(SettingsError, match=r"options\.quantize cannot be 'int3'.*'int8'"):
        build(sd, quantize="int3")
