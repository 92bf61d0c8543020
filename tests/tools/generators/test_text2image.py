"""The generator `text2image` on tiny models of diffusers' real classes, built and saved here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from memory.errors import SettingsError, WeightsError
from tests.tools.tiny_diffusers import MODELS, lora
from tools import generators
from tools.data.drawn import ImageRequest
from tools.generators import Generator

# diffusers 0.42 has not followed numpy 2 everywhere.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (3, 16, 24)
REQUESTS = [
    ImageRequest(["a dark cell", "a street, by night"][i % 2], f"p{i % 2}", i, 0) for i in range(5)
]


def build(folder: Path | str, **options: object) -> Generator:
    return generators.build("text2image", SHAPE, "cpu", weights=str(folder), steps=2, **options)


@pytest.mark.parametrize("kind", MODELS)
def test_the_same_images_for_any_batch_size(kind: str, tmp_path: Path) -> None:
    MODELS[kind](tmp_path)
    generator = build(tmp_path, size=32)
    together = generator.draw(REQUESTS).images
    assert together.shape == (5, *SHAPE)
    alone = np.concatenate([generator.draw([request]).images for request in REQUESTS])
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1
    assert (together[0] != together[2]).any()


def test_each_distinct_prompt_is_encoded_once(sd: Path) -> None:
    generator = build(sd)
    seen: list[int] = []
    generator.pipeline.text_encoder.register_forward_hook(  # type: ignore[attr-defined]
        lambda *_: seen.append(1)
    )
    generator.draw(REQUESTS)
    # One call for the text and one for its empty counterpart of guidance.
    assert len(seen) == 4
    generator.draw(REQUESTS)
    assert len(seen) == 4


def test_settings_change_identity_and_images(sd: Path, tmp_path: Path) -> None:
    lora(tmp_path / "a")
    lora(tmp_path / "b", seed=2)
    drawers = [
        build(sd),
        build(sd, scheduler="DPMSolverMultistepScheduler"),
        build(sd, negative_prompt="blurred"),
        build(sd, size=(32, 48)),
        build(sd, guidance=1.0),
        build(sd, adapters={str(tmp_path / "a"): 1.0}),
        build(sd, adapters={str(tmp_path / "a"): 0.3}),
        build(sd, adapters={str(tmp_path / "a"): 1.0, str(tmp_path / "b"): 1.0}),
    ]
    assert len({drawer.identity for drawer in drawers}) == len(drawers)
    images = [drawer.draw(REQUESTS[:1]).images.tobytes() for drawer in drawers]
    assert len(set(images)) == len(images), [images.index(image) for image in images]
    assert build(sd).identity == drawers[0].identity


def test_prompts_weigh_adapters(sd: Path, tmp_path: Path) -> None:
    lora(tmp_path / "night")
    lora(tmp_path / "rain", seed=2)
    (tmp_path / "rain" / "pytorch_lora_weights.safetensors").rename(tmp_path / "wet.safetensors")
    night, wet = str(tmp_path / "night"), str(tmp_path / "wet.safetensors")
    weighed = [{}, {"night": 1.0}, {"wet": 0.7}, {}, {"night": 1.0, "wet": 0.7}]
    requests = [ImageRequest("a cell", "p", 0, 0, adapters=weights) for weights in weighed]
    generator = build(sd, adapters={night: 0.0, wet: 0.0})
    batches: list[int] = []
    generator.pipeline.vae.decoder.register_forward_hook(  # type: ignore[attr-defined]
        lambda _, __, out: batches.append(len(out))
    )
    images = generator.draw(requests).images
    assert sorted(batches) == [1, 1, 1, 2]
    assert (images[0] == images[3]).all()
    assert len({image.tobytes() for image in images}) == 4
    for i, weights in enumerate(weighed):
        alone = build(sd, adapters={night: 0.0, wet: 0.0, **_by_path(weights, night, wet)})
        expected = alone.draw(requests[:1]).images[0]
        assert np.abs(images[i].astype(int) - expected.astype(int)).max() <= 1
    with pytest.raises(SettingsError, match=r"weighs the adapter 'fog', .* has night, wet"):
        generator.draw([ImageRequest("a cell", "p", 0, 0, adapters={"fog": 1.0})])


def _by_path(weights: dict[str, float], night: str, wet: str) -> dict[str, float]:
    return {{"night": night, "wet": wet}[name]: weight for name, weight in weights.items()}


def test_no_model_or_no_pinned_one() -> None:
    with pytest.raises(WeightsError, match="There is no model 'bundled:solar'"):
        build("bundled:solar")
    with pytest.raises(SettingsError, match="40 digits of a commit"):
        build("someone/model", revision="main")
    with pytest.raises(WeightsError, match="allow_network=true"):
        build("someone/model", revision="0" * 40)


def test_wrong_and_partial_folders(sd: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no model_index"):
        build(tmp_path)
    partial = shutil.copytree(sd, tmp_path / "partial")
    shutil.rmtree(partial / "vae")
    with pytest.raises(WeightsError, match="vae/ is missing"):
        build(partial)
    cut = shutil.copytree(sd, tmp_path / "cut")
    file = cut / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="damaged"):
        build(cut)


def test_pickles_and_code_are_not_loaded(sd: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(sd, tmp_path / "pickled")
    (pickled / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, pickled / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="is a pickle"):
        build(pickled)
    own = shutil.copytree(sd, tmp_path / "own")
    index = json.loads((own / "model_index.json").read_text())
    index["unet"] = ["mine", "UNet"]
    (own / "model_index.json").write_text(json.dumps(index))
    (own / "unet" / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(WeightsError, match="run its own code"):
        build(own)


def test_adapters_that_cannot_be_used(sd: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="There is no adapter"):
        build(sd, adapters={str(tmp_path / "none"): 1.0})
    lora(tmp_path / "wide", cross=32)
    with pytest.raises(WeightsError, match="not for this model"):
        build(sd, adapters={str(tmp_path / "wide"): 1.0})
    (tmp_path / "old.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="is a pickle"):
        build(sd, adapters={str(tmp_path / "old.bin"): 1.0})
    lora(tmp_path / "a" / "night")
    lora(tmp_path / "b" / "night")
    with pytest.raises(SettingsError, match="are named 'night'"):
        build(sd, adapters={str(tmp_path / name / "night"): 1.0 for name in "ab"})
    (tmp_path / "cut.safetensors").write_bytes(b"12345678 no header")
    with pytest.raises(WeightsError, match="damaged"):
        build(sd, adapters={str(tmp_path / "cut.safetensors"): 1.0})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 33}, "multiples of 2"),
        ({"scheduler": "DDIMSchedular"}, "Did you mean 'DDIMScheduler'"),
        ({"safety_checker": True}, "no safety checker"),
        ({"offload": "model"}, "needs a GPU"),
        ({"dtype": "float8"}, "generator.options.dtype cannot be 'float8'"),
        ({"schedular": "DDIMScheduler"}, "Did you mean 'scheduler'"),
        ({"attention": "nothing"}, "cannot be used"),
    ],
)
def test_settings_that_do_not_suit(sd: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        build(sd, **options)


def test_what_the_encoder_cannot_read_of_a_prompt_is_cut(sd: Path) -> None:
    generator = build(sd)
    long = "a dark cell " * 10
    assert generator.count_tokens(long) > generator.max_tokens == 77
    images = [
        generator.draw([ImageRequest(text, "p", 0, 0)]).images
        for text in (long, long + "in the snow", "a bright cell")
    ]
    assert (images[0] == images[1]).all()
    assert (images[0] != images[2]).any()
