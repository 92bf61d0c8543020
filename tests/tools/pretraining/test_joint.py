"""Training of joint models, on tiny models of diffusers' real classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eval.dense import confusions, depth_metrics, depth_sums, segmentation_metrics
from memory.errors import SettingsError, WeightsError
from prompts.vocabulary import Vocabulary
from tests.tools.tiny_diffusers import MODELS
from tests.tools.tiny_scenes import Scenes, stable_diffusion_of
from tools import generators, targets
from tools.data.drawn import ImageRequest
from tools.data.samples import VOID
from tools.generators.joint.folder import ADAPTER_FILE, LABELS_FILE, read_card
from tools.generators.text2image.model_options import ModelOptions
from tools.pretraining.finetuning import NoisyBatch
from tools.pretraining.joint import JointFineTuning, pretrain_joint
from tools.settings import JointSettings

# diffusers 0.42 has not followed numpy 2 everywhere.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCENES = Scenes()
SIZE = (16, 24)
QUICK = JointSettings(
    steps=12, learning_rate=0.01, warmup_steps=2, ema_decay=0.5, rank=2, save_every=5
)


def train(model: Path, folder: Path, settings: JointSettings = QUICK) -> Path:
    return pretrain_joint(SCENES, ModelOptions(weights=str(model), size=SIZE), settings, folder)


@pytest.mark.parametrize(("kind", "adapt"), [("sd", "all"), ("sdxl", "attention")])
def test_labels_are_learnt_and_drawn(kind: str, adapt: str, tmp_path: Path) -> None:
    MODELS[kind](tmp_path / "model")
    settings = QUICK.model_validate({**QUICK.model_dump(), "adapt": adapt, "steps": 30})
    joint = train(tmp_path / "model", tmp_path / "run", settings)
    card = read_card(joint)
    # 1 to 5, by the noise, is the error of who knows nothing of whitened labels.
    assert card.error_labels < 1.3
    assert card.n_unseen == 4
    drawn = generators.build(
        "joint", SCENES.image_shape, weights=str(tmp_path / "model"), joint=str(joint), steps=3
    ).draw([ImageRequest("a street", "p", 0, 0)])
    assert set(drawn.labels) == {"segmentation", "depth", "normals"}


def test_an_interrupted_training_goes_on_as_if_it_was_not(sd: Path, tmp_path: Path) -> None:
    whole = train(sd, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(step: int, loss: float, seconds: float) -> None:
        if step == 8:
            raise Killed

    options = ModelOptions(weights=str(sd), size=SIZE)
    with pytest.raises(Killed):
        pretrain_joint(SCENES, options, QUICK, tmp_path / "cut", progress=kill)
    cut = train(sd, tmp_path / "cut")
    for name in (ADAPTER_FILE, LABELS_FILE):
        one, other = load_file(whole / name), load_file(cut / name)
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one)
        assert any(value.any() for value in one.values())
    assert read_card(whole) == read_card(cut)

    with pytest.raises(SettingsError, match="rank: 2 -> 8"):
        train(sd, tmp_path / "cut", QUICK.model_copy(update={"rank": 8}))
    depth_alone = QUICK.model_copy(update={"labels": ("depth",)})
    with pytest.raises(SettingsError, match="holds a run with another labels"):
        train(sd, tmp_path / "cut", depth_alone)
    MODELS["sdxl"](tmp_path / "sdxl")
    with pytest.raises(SettingsError, match="another model_sha256"):
        train(tmp_path / "sdxl", tmp_path / "cut")


def test_some_of_the_labels(sd: Path, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"labels": ("depth",), "steps": 1})
    joint = train(sd, tmp_path, settings)
    assert read_card(joint).labels.codes.kinds == ("depth",)
    drawn = generators.build(
        "joint", SCENES.image_shape, weights=str(sd), joint=str(joint), steps=2
    ).draw([ImageRequest("a street", "p", 0, 0)])
    assert set(drawn.labels) == {"depth"}


def test_labels_that_the_target_lacks(sd: Path, tmp_path: Path) -> None:
    options = ModelOptions(weights=str(sd), size=16)
    toy = targets.build("toy", tmp_path)
    with pytest.raises(SettingsError, match="'toy' has no labels of pixels"):
        pretrain_joint(toy, options, QUICK, tmp_path)
    scenes = Scenes()
    labels = {kind: scenes.samples.labels[kind] for kind in ("segmentation", "depth")}
    scenes.samples = replace(scenes.samples, labels=labels)
    wants_normals = QUICK.model_copy(update={"labels": ("depth", "normals")})
    with pytest.raises(SettingsError, match=r"learns normals, but .* has segmentation, depth"):
        pretrain_joint(scenes, options, wants_normals, tmp_path)


def test_other_models_are_refused(tmp_path: Path) -> None:
    MODELS["flux"](tmp_path / "model")
    options = ModelOptions(weights=str(tmp_path / "model"), size=16)
    with pytest.raises(WeightsError, match=r"A joint model is trained for .* is a FluxPipeline"):
        pretrain_joint(SCENES, options, QUICK, tmp_path / "run")


def test_what_is_not_known_is_not_learnt(sd: Path) -> None:
    options = ModelOptions(weights=str(sd), size=SIZE)
    learner = JointFineTuning(SCENES.samples, SCENES, options, QUICK, "cpu")

    def error(labels: dict[str, np.ndarray]) -> float:
        times, noise = torch.tensor([10, 400, 700, 999]), torch.Generator().manual_seed(0)
        batch = NoisyBatch(SCENES.samples.images, labels, [""] * 4, times, noise)
        return learner.losses(batch)[1].item()

    given = dict(SCENES.samples.labels)
    assert error(given) > 0.5
    assert error({"segmentation": np.full_like(given["segmentation"], VOID)}) == 0
    unknown = {kind: values.copy() for kind, values in given.items()}
    unknown["segmentation"][:] = VOID
    unknown["normals"][:] = np.nan
    assert error(unknown) == pytest.approx(error({"depth": given["depth"]}))


class Letters:
    """The vocabulary of some scenes: a letter for each, so that even random encoders tell them."""

    requires: Mapping[str, str] = {}

    def __init__(self, scenes: Scenes) -> None:
        self._known = [dict(one) for one in scenes.samples.attributes]

    def caption(self, attributes: Mapping[str, str], rng: object = None) -> str:
        return "abcdefghijklmnop"[self._known.index(dict(attributes))] * 20

    def problems(self, attributes: Mapping[str, str]) -> Sequence[str]:
        return []


@pytest.mark.slow
def test_sixteen_scenes_are_learnt_by_heart(tmp_path: Path) -> None:
    scenes = Scenes(16)
    letters = Letters(scenes)
    scenes.vocabulary = cast(Vocabulary, letters)
    stable_diffusion_of(scenes.samples, tmp_path / "model")
    settings = JointSettings(
        steps=800,
        batch_size=16,
        learning_rate=4e-3,
        warmup_steps=20,
        ema_decay=0.9,
        cooldown_share=0.4,
        rank=64,
        adapt="all",
        labels=("segmentation", "depth"),
        text_dropout=0,
        attribute_dropout=0,
        shared_captions=1,
        save_every=800,
    )
    options = ModelOptions(weights=str(tmp_path / "model"), size=SIZE)
    joint = pretrain_joint(scenes, options, settings, tmp_path / "run")
    drawn = generators.build(
        "joint",
        scenes.image_shape,
        weights=str(tmp_path / "model"),
        joint=str(joint),
        steps=20,
        guidance=1.0,
    ).draw(
        [
            ImageRequest(letters.caption(attributes), f"p{i}", i, 0)
            for i, attributes in enumerate(scenes.samples.attributes)
        ]
    )
    true, names = scenes.samples.labels, scenes.pixel_classes
    found = confusions(true["segmentation"], drawn.labels["segmentation"], len(names))
    assert segmentation_metrics(found, names)["miou"].value > 0.9
    sums = depth_sums(true["depth"], drawn.labels["depth"])
    assert depth_metrics(sums)["abs_rel"].value < 0.1
