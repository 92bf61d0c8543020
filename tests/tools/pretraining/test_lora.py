"""Domain LoRA on tiny models of diffusers' real classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from memory.errors import SettingsError, WeightsError
from tests.tools.tiny_diffusers import MODELS
from tools import generators, targets
from tools.data.drawn import LORA_FILE, ImageRequest
from tools.generators.text2image.model_options import ModelOptions
from tools.pretraining.finetuning import pretrain_lora
from tools.settings import LoraSettings
from tools.targets import Target

# diffusers 0.42 has not followed numpy 2 everywhere.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

QUICK = LoraSettings(steps=40, learning_rate=0.02, warmup_steps=5, rank=4, save_every=15)
SHORT = QUICK.model_copy(update={"steps": 8, "save_every": 3})


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return targets.build("toy", tmp_path)


def train(target: Target, model: Path, folder: Path, settings: LoraSettings = QUICK) -> Path:
    options = ModelOptions(weights=str(model), size=16)
    return pretrain_lora(target, options, settings, folder)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_adapter_lowers_the_error_and_is_loaded(
    kind: str, target: Target, tmp_path: Path
) -> None:
    MODELS[kind](tmp_path / "model")
    adapter = train(target, tmp_path / "model", tmp_path / "run")
    card = json.loads((adapter / "adapter.json").read_text())
    # Attention alone cannot mend much of an untrained UNet; the noise is the same in both.
    assert card["error_with"] < 0.99 * card["error_without"]
    assert card["n_unseen"] == 16

    requests = [ImageRequest("a dark cell", "p", 0, 0)]
    drawn = [
        generators.build(
            "text2image",
            target.image_shape,
            weights=str(tmp_path / "model"),
            steps=2,
            size=16,
            adapters=adapters,
        )
        .draw(requests)
        .images
        for adapters in ({}, {str(adapter): 1.0})
    ]
    assert (drawn[0] != drawn[1]).any()


def test_an_interrupted_training_goes_on_as_if_it_was_not(target: Target, tmp_path: Path) -> None:
    MODELS["sd"](tmp_path / "model")
    whole = train(target, tmp_path / "model", tmp_path / "whole", SHORT)

    class Killed(Exception):
        pass

    def kill(step: int, loss: float, seconds: float) -> None:
        if step == 5:
            raise Killed

    options = ModelOptions(weights=str(tmp_path / "model"), size=16)
    with pytest.raises(Killed):
        pretrain_lora(target, options, SHORT, tmp_path / "cut", progress=kill)
    cut = train(target, tmp_path / "model", tmp_path / "cut", SHORT)
    one, other = load_file(whole / LORA_FILE), load_file(cut / LORA_FILE)
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    with pytest.raises(SettingsError, match="rank: 4 -> 8"):
        train(target, tmp_path / "model", tmp_path / "cut", SHORT.model_copy(update={"rank": 8}))


def test_other_models_are_refused(target: Target, tmp_path: Path) -> None:
    MODELS["flux"](tmp_path / "model")
    with pytest.raises(WeightsError, match="is a FluxPipeline"):
        train(target, tmp_path / "model", tmp_path / "run")
