from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from memory.errors import SettingsError
from prompts.vocabulary import load_vocabulary
from tools.data.samples import Samples
from tools.diffusion.denoising import denoising_loss, to_channels
from tools.diffusion.pipeline import MTDMPipeline, encode_prompts
from tools.diffusion.preconditioning import PREDICTION_TYPES, Prediction
from tools.diffusion.sampler import Levels
from tools.diffusion.weights import load_pipeline
from tools.pretraining.batches import captions_of, order_of
from tools.pretraining.pretrain import pretrain, sample_prompts
from tools.settings import PretrainSettings
from tools.targets import Target
from tools.targets.toy import Toy

QUICK = PretrainSettings(
    steps=4, batch_size=2, channels=(16, 32), save_every=4, warmup_steps=1, patch=4
)


class TinyTarget:
    """Four images of the elpv vocabulary, 16 pixels wide."""

    name = "tiny"
    task = "classification"
    image_shape: tuple[int, int, int] = (1, 16, 16)
    notice = "Made up."
    pixel_classes: Sequence[str] = ()
    flips: tuple[str, ...] = ("horizontal", "vertical")

    def __init__(self) -> None:
        self.vocabulary = load_vocabulary("elpv")
        self.class_names: Sequence[str] = self.vocabulary.classes

    def split(self, name: str) -> Samples:
        rng = np.random.default_rng(0)
        severities = ["functional", "defective"] * 2
        return Samples(
            images=rng.integers(0, 256, (4, 1, 16, 16), dtype=np.uint8),
            classes=np.array([0, 1, 0, 1]),
            attributes=[{"wafer": "mono", "severity": s} for s in severities],
            ids=[str(i) for i in range(4)],
        )

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        return attributes

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        return {}


def weights(folder: Path) -> dict[str, np.ndarray]:
    name = json.loads((folder / "train.json").read_text("utf-8"))["file"]
    return {k: v.numpy() for k, v in load_file(folder / name).items()}


def test_interrupted_training_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    target = TinyTarget()
    pretrain(target, QUICK, tmp_path / "straight")
    saved = QUICK.model_copy(update={"save_every": 2})
    seen: list[int] = []

    def interrupt(step: int, loss: float, seconds: float) -> None:
        seen.append(step)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(target, saved, tmp_path / "broken", progress=interrupt)
    pretrain(target, saved, tmp_path / "broken", progress=lambda s, loss, sec: seen.append(s))
    assert seen == [1, 2, 3, 3, 4]
    straight, broken = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert straight.keys() == broken.keys()
    assert all((straight[k] == broken[k]).all() for k in straight)
    assert (tmp_path / "broken" / "samples-0000004.png").stat().st_size > 0
    assert (tmp_path / "broken/pipeline/unet/diffusion_pytorch_model.safetensors").is_file()


def test_run_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    pretrain(TinyTarget(), QUICK.model_copy(update={"steps": 2}), tmp_path)
    other = QUICK.model_copy(update={"learning_rate": 0.1})
    with pytest.raises(SettingsError, match=r"learning_rate: 0\.0005 -> 0\.1"):
        pretrain(TinyTarget(), other, tmp_path)


def test_images_of_a_size_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    target = StreetTarget()
    target.image_shape = (3, 12, 20)
    with pytest.raises(SettingsError, match=r"multiples of 8 pixels, not 20x12"):
        pretrain(target, QUICK, tmp_path)


class StreetTarget(TinyTarget):
    """Four images, 24x16 pixels: all with class ids, half of them with depth."""

    image_shape = (3, 16, 24)
    pixel_classes: Sequence[str] = ("road", "sky", "car")
    flips: tuple[str, ...] = ("horizontal",)

    def split(self, name: str) -> Samples:
        samples = super().split(name)
        rng = np.random.default_rng(1)
        depth = rng.uniform(2, 50, (4, 16, 24)).astype(np.float32)
        depth[:2] = np.nan
        ids = rng.integers(0, 3, (4, 16, 24)).astype(np.uint8)
        ids[:, 0] = 255
        images = rng.integers(0, 256, (4, 3, 16, 24), dtype=np.uint8)
        return replace(samples, images=images, labels={"segmentation": ids, "depth": depth})


@pytest.mark.parametrize("prediction", ["velocity", "clean"])
def test_labels_are_learnt_where_they_are_known(tmp_path: Path, prediction: Prediction) -> None:
    losses: list[float] = []
    settings = QUICK.model_copy(update={"prediction": prediction})
    pipeline = pretrain(
        StreetTarget(), settings, tmp_path, progress=lambda step, loss, _: losses.append(loss)
    )
    assert pipeline.scheduler.config.prediction_type == PREDICTION_TYPES[prediction]
    assert np.isfinite(losses).all()
    assert pipeline.codes.kinds == ("segmentation", "depth")
    assert pipeline.noise_shape == (3 + 3 + 1, 16, 24)
    drawn = pipeline(["a street"], torch.zeros(1, *pipeline.noise_shape), 2)
    assert drawn.images.shape == (1, 3, 16, 24)
    assert 2 <= drawn.labels["depth"].min() <= drawn.labels["depth"].max() <= 50


class OneClassEach(StreetTarget):
    """Three images of road alone, one of sky alone."""

    def split(self, name: str) -> Samples:
        samples = super().split(name)
        ids = np.zeros((4, 16, 24), np.uint8)
        ids[3] = 1
        return replace(samples, labels={"segmentation": ids})


def test_a_class_may_be_rare_in_all_images_or_in_one(tmp_path: Path) -> None:
    def losses(target: Target, power: float, within: str) -> list[float]:
        seen: list[float] = []
        settings = QUICK.model_copy(
            update={"class_balance_exponent": power, "class_balance_scope": within, "batch_size": 4}
        )
        folder = tmp_path / f"{type(target).__name__}-{power}-{within}"
        pretrain(target, settings, folder, progress=lambda step, loss, _: seen.append(loss))
        return seen

    same = losses(OneClassEach(), 0, "data")
    assert losses(OneClassEach(), 0.9, "image") == pytest.approx(same)
    assert losses(OneClassEach(), 0.9, "data") != pytest.approx(same, rel=0.01)
    assert losses(StreetTarget(), 0.9, "image") != losses(StreetTarget(), 0, "image")


def test_network_may_see_only_the_main_directions_of_patches(tmp_path: Path) -> None:
    kept = {"image": 0.9, "segmentation": 0.5}
    settings = QUICK.model_copy(update={"explained_variance": kept})
    pipeline = pretrain(StreetTarget(), settings, tmp_path)
    seen = pipeline.unet.config.in_channels
    assert 16 < seen < 7 * 16
    assert load_pipeline(tmp_path / "pipeline").config.basis == pipeline.config.basis
    drawn = pipeline(["a street"], torch.zeros(1, *pipeline.noise_shape), 2)
    assert drawn.labels["segmentation"].shape == (1, 16, 24)
    with pytest.raises(SettingsError, match=r"explained_variance 'normal'. Did you mean 'normals'"):
        other = QUICK.model_copy(update={"explained_variance": {"normal": 0.9}})
        pretrain(StreetTarget(), other, tmp_path / "other")


def test_settings_of_labels_serve_images_without_labels_too(tmp_path: Path) -> None:
    of_labels = {"explained_variance": {"image": 0.9, "depth": 0.9}, "label_noise_offset": 0.4}
    of_labels |= {"label_dropout": 0.5, "prediction": "residual"}
    pipeline = pretrain(TinyTarget(), QUICK.model_copy(update=of_labels), tmp_path)
    assert pipeline.config.label_noise_offset == 0
    t = torch.tensor([300])
    of_image, of_none = pipeline.levels(t)
    assert of_image == of_none == pipeline.scheduler.alphas_cumprod[300]


def test_pretraining_goes_on_from_other_weights(tmp_path: Path) -> None:
    pretrain(StreetTarget(), QUICK, tmp_path / "first")
    again = QUICK.model_copy(update={"start": str(tmp_path / "first/pipeline"), "steps": 2})
    pipeline = pretrain(StreetTarget(), again, tmp_path / "second")
    assert pipeline.codes.depth_m == load_pipeline(tmp_path / "first/pipeline").codes.depth_m
    other = StreetTarget()
    other.pixel_classes = ("road", "sky", "tram")
    with pytest.raises(SettingsError, match=r"road, sky, car.*road, sky, tram"):
        pretrain(other, again, tmp_path / "third")


class Watched(MTDMPipeline):
    """An MTDM that keeps the levels it was asked at."""

    seen: list[Levels]

    def predict(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        states: torch.Tensor,
        mask: torch.Tensor,
        levels: Levels | None = None,
    ) -> torch.Tensor:
        assert levels is not None
        self.seen = [*getattr(self, "seen", []), levels]
        return super().predict(x, t, states, mask, levels)


def test_labels_that_lead_and_are_dropped_are_learnt(tmp_path: Path) -> None:
    settings = QUICK.model_copy(
        update={"prediction": "residual", "label_noise_offset": 0.4, "label_dropout": 0.5}
    )
    pipeline = pretrain(StreetTarget(), settings, tmp_path)
    assert pipeline.config.label_noise_offset == 0.4
    assert pipeline.prediction == "residual"
    assert len(pipeline.config.power[0]) == pipeline.unet.config.in_channels
    watched: Watched = Watched.from_pretrained(tmp_path / "pipeline", dtype=torch.float32)
    target = StreetTarget()
    x, weight = to_channels(watched, target.split("").images, target.split("").labels)
    states, mask = (part.expand(len(x), *part.shape[1:]) for part in encode_prompts([""]))
    for step in range(20):
        loss = denoising_loss(watched, x, weight, states, mask, settings, step)
        assert torch.isfinite(loss)
    of_image, of_labels = (torch.cat(part) for part in zip(*watched.seen, strict=True))
    dropped = (of_labels == 0) & (of_image > 0)
    assert 0.3 < dropped[of_image > 0].float().mean() < 0.7
    assert (of_labels[of_labels > 0] >= of_image[of_labels > 0]).all()


def test_equal_attributes_can_share_their_captions(tmp_path: Path) -> None:
    samples = TinyTarget().split("generator")
    shared = QUICK.model_copy(update={"shared_captions": 3})
    captions = captions_of(samples, TinyTarget(), shared)
    assert captions[0][0][0] is captions[2][0][0]
    assert len(captions[0][0][0]) == 3


def test_settings_of_earlier_versions_are_read() -> None:
    earlier = {"label_lead": 0.4, "noise_kept": [0.5, 0.6], "spacing": 2.0, "rare_power": 0.3}
    earlier |= {"power_kept": {"image": 0.9}, "rare_within": "image", "prediction": "remainder"}
    settings = PretrainSettings.model_validate(earlier)
    assert (settings.label_noise_offset, settings.s_noise) == (0.4, (0.5, 0.6))
    assert (settings.timestep_rho, settings.class_balance_exponent) == (2.0, 0.3)
    assert (settings.class_balance_scope, settings.prediction) == ("image", "residual")
    assert settings.explained_variance == {"image": 0.9}
    both = PretrainSettings.model_validate({"timestep_rho": 1.5, "spacing": 3.0})
    assert both.timestep_rho == 3.0


def test_sample_prompts_are_distinct_and_legal() -> None:
    vocabulary = load_vocabulary("elpv")
    prompts = sample_prompts(TinyTarget())
    assert len(set(prompts)) == len(prompts) == 8
    assert all(vocabulary.class_name(vocabulary.parse(p)) for p in prompts)


def test_how_it_draws_is_set_anew_without_another_step(tmp_path: Path) -> None:
    before = pretrain(TinyTarget(), QUICK, tmp_path)
    other = QUICK.model_copy(update={"timestep_rho": 2.0, "s_noise": (0.5, 0.5)})
    after = pretrain(TinyTarget(), other, tmp_path)
    assert (before.config.timestep_rho, after.config.timestep_rho) == (1, 2)
    assert after.config.s_noise == [0.5, 0.5]
    for name, value in before.unet.state_dict().items():
        assert torch.equal(value, after.unet.state_dict()[name])


def test_batches_may_hold_rare_classes_as_often_as_others() -> None:
    samples = Toy().split("generator")
    rare = np.flatnonzero(samples.classes == 1)[:3]
    kept = np.concatenate([np.flatnonzero(samples.classes == 0), rare])
    few = samples.take(kept)

    def share(exponent: float) -> float:
        settings = PretrainSettings(class_sampling_exponent=exponent, batch_size=50)
        order = order_of(few, settings)
        rows = [row for step in range(20) for row in order(step)]
        return float((few.classes[rows] == 1).mean())

    assert share(0.0) == pytest.approx(3 / len(few), abs=0.005)
    assert share(1.0) == pytest.approx(0.5, abs=0.05)
