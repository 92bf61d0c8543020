from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file

from memory.errors import SettingsError
from prompts.vocabulary import load_vocabulary
from tools.pretrain import pretrain, sample_prompts
from tools.samples import Samples
from tools.settings import PretrainSettings

QUICK = PretrainSettings(
    steps=4, batch_size=2, channels=(16, 32), save_every=2, warmup_steps=1, patch=4
)


class TinyTarget:
    """Four images of the elpv vocabulary, 16 pixels wide."""

    name = "tiny"
    task = "classification"
    image_shape = (1, 16, 16)
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
    seen: list[int] = []

    def interrupt(step: int, loss: float, seconds: float) -> None:
        seen.append(step)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(target, QUICK, tmp_path / "broken", progress=interrupt)
    pretrain(target, QUICK, tmp_path / "broken", progress=lambda s, loss, sec: seen.append(s))
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


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    target = TinyTarget()
    target.image_shape = (1, 16, 32)
    with pytest.raises(SettingsError, match=r"square.*32x16"):
        pretrain(target, QUICK, tmp_path)


def test_sample_prompts_are_distinct_and_legal() -> None:
    vocabulary = load_vocabulary("elpv")
    prompts = sample_prompts(TinyTarget())
    assert len(set(prompts)) == len(prompts) == 8
    assert all(vocabulary.class_name(vocabulary.parse(p)) for p in prompts)
