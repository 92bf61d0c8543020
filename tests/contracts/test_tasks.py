"""What every task must do: the training loop and the evaluation rely on it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification

from memory.errors import DataError, SettingsError, WeightsError
from tests.tools import tiny_transformers
from tools import tasks
from tools.data.samples import Samples
from tools.models.dstm_file import load_model, save_model
from tools.plugins import names
from tools.settings import TrainSettings
from tools.tasks import Minibatch, Model, Slicing, Task
from tools.tasks.classification import TransformersClassifier
from tools.train_dstm import train_model

SETTINGS = TrainSettings(steps=2, batch_size=4)


def samples(channels: int = 1, size: int = 32, n_classes: int = 3) -> Samples:
    random = np.random.default_rng(0)
    return Samples(
        images=random.integers(0, 256, (9, channels, size, size), dtype=np.uint8),
        classes=np.arange(9) % n_classes,
        attributes=[{"light": "day" if i % 2 else "night"} for i in range(9)],
        ids=[str(i) for i in range(9)],
        labels={
            "segmentation": random.integers(0, n_classes, (9, size, size), dtype=np.uint8),
            "depth": random.uniform(1, 50, (9, size, size)).astype(np.float32),
            "normals": directions(random.normal(size=(9, 3, size, size))),
        },
    )


def directions(vectors: Any) -> Any:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def settings_of(task: Task) -> TrainSettings:
    model = "unet" if task.needs else "convnet"
    return SETTINGS.model_copy(update={"model": model})


NAMES = ("sky", "road", "car")
SLICING = Slicing([("light",)], 2)


def batch(task: Task, given: Samples) -> Minibatch:
    return Minibatch(torch.from_numpy(given.images).float() / 255, task.labels(given))


@pytest.fixture(params=names("tools.tasks"))
def task(request: pytest.FixtureRequest) -> Task:
    return tasks.build(request.param)


def test_it_follows_the_protocol(task: Task) -> None:
    assert isinstance(task, Task)
    assert task.name in names("tools.tasks")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_step_of_training(task: Task, channels: int) -> None:
    given = samples(channels)
    model = task.build_model((channels, 32, 32), 3, settings_of(task))
    some = batch(task, given)
    loss = task.loss(model(some.images), some, SETTINGS)
    assert loss.shape == (9,)
    assert torch.isfinite(loss).all()
    torch.autograd.backward(loss.mean())
    assert all(p.grad is not None for p in model.parameters())


def test_a_model_can_be_restored(task: Task) -> None:
    given = samples()
    model = task.build_model((1, 32, 32), 3, settings_of(task))
    restored = task.restore_model(json.loads(json.dumps(model.description)))
    restored.load_state_dict(model.state_dict())
    expected = task.predict(model, given.images)
    assert np.array_equal(task.predict(restored, given.images), expected)


def test_predictions_do_not_depend_on_their_company(task: Task) -> None:
    given = samples()
    model = task.build_model((1, 32, 32), 3, settings_of(task))
    found = task.predict(model, given.images)
    assert len(found) == 9
    # Another batch size may round another way, and so tip a few pixels to another class.
    same = np.isclose(task.predict(model, given.images[4:5]), found[4:5], atol=1e-4)
    assert same.mean() > 0.99
    assert len(task.predict(model, given.images[:0])) == 0


def test_what_is_said_is_reported_and_shown(task: Task) -> None:
    given = samples()
    model = task.build_model((1, 32, 32), 3, settings_of(task))
    said = task.predict(model, given.images)
    report = task.report(said, given, NAMES, 2, "feedback", SLICING)
    assert (report.round, report.split, report.main_metric) == (2, "feedback", task.metric)
    assert [s.key for s in report.slices] == ["light=day", "light=night"]
    for failure in task.failures(said, given, SLICING):
        assert failure.slice in ("light=day", "light=night")
    pictures, captions = task.pictures(said, given, NAMES)
    assert pictures.dtype == np.uint8
    assert len(pictures) == len(captions) == 9


def test_labels_that_are_missing_are_named(task: Task) -> None:
    given = replace(samples(), labels={})
    if task.needs:
        with pytest.raises(DataError, match=f"no labels '{task.needs[0]}'"):
            task.labels(given)
    else:
        assert len(task.labels(given)) == 9


def test_augmentation_is_a_function_of_its_generator(task: Task) -> None:
    given = batch(task, samples())
    before = torch.get_rng_state()
    first, second, third = (
        task.augment(given, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(first.images, third.images)
    assert first.images.shape == given.images.shape
    assert first.images.dtype == torch.float32
    assert 0 <= float(first.images.min()) <= float(first.images.max()) <= 1
    assert first.labels.shape == given.labels.shape


# The task `classification` alone.


def test_class_probabilities_add_up_to_one() -> None:
    task = tasks.build("classification")
    model = task.build_model((1, 32, 32), 3, SETTINGS)
    found = task.predict(model, samples().images)
    assert found.dtype == np.float64
    assert found.shape == (9, 3)
    assert np.allclose(found.sum(1), 1)


# Its models of transformers.


def vit(folder: Path, **changes: Any) -> Path:
    config = tiny_transformers.vit(image_size=48, patch_size=16, **{"num_channels": 3, **changes})
    config.save_pretrained(folder)
    return folder


def resnet(folder: Path) -> tuple[Path, ResNetForImageClassification]:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=7)
    model = ResNetForImageClassification(config)
    model.save_pretrained(folder)
    processor = {
        "size": {"shortest_edge": 40},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder, model


def build(folder: Path, n_classes: int = 3) -> Model:
    settings = TrainSettings(model=str(folder))
    return tasks.build("classification").build_model((1, 32, 32), n_classes, settings)


def test_a_transformers_config_is_trained_from_scratch(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"model": str(vit(tmp_path / "vit"))})
    task = tasks.build("classification")
    first, second = (train_model(samples(), task, 3, settings)[0] for _ in range(2))
    assert isinstance(first, TransformersClassifier)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    save_model(tmp_path / "dstm", first, {"task": "classification"})
    vit(tmp_path / "vit", num_channels=5)  # a saved DSTM does not need its origin again
    restored, _ = load_model(tmp_path / "dstm")
    expected = task.predict(first, samples().images)
    assert expected.shape == (9, 3)
    assert np.array_equal(task.predict(restored, samples().images), expected)


def test_transformers_weights_are_used_and_the_head_is_new(tmp_path: Path) -> None:
    folder, original = resnet(tmp_path)
    model = build(folder)
    state = model.state_dict()
    body = {k: v for k, v in original.state_dict().items() if not k.startswith("classifier")}
    assert len(body) > 10
    assert all(torch.equal(state[f"network.{name}"], value) for name, value in body.items())
    assert state["network.classifier.1.weight"].shape == (3, 16)


def test_transformers_images_are_prepared_as_the_processor_says(tmp_path: Path) -> None:
    folder, original = resnet(tmp_path)
    model = build(folder, n_classes=7).eval()
    gray = torch.full((1, 1, 32, 32), 0.5)
    mean = torch.tensor([0.5, 0.4, 0.3]).reshape(1, 3, 1, 1)
    prepared = ((0.5 - mean) / 0.2).expand(1, 3, 40, 40)
    with torch.inference_mode():
        expected = original.eval()(prepared).logits
        assert torch.allclose(model(gray), expected, atol=1e-5)


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(SettingsError, match=r"Unknown model 'convnets'\. Did you mean 'convnet'"):
        build(Path("convnets"))


@pytest.mark.parametrize(
    "config",
    [
        "{",
        '{"model_type": "bert"}',
        '{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}',
    ],
)
def test_a_folder_without_a_classifier_is_an_error(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "mine.py").write_text("raise SystemExit('code of a model folder was run')")
    with pytest.raises(WeightsError, match="does not hold an image classifier"):
        build(tmp_path)


def test_damaged_transformers_weights_are_an_error(tmp_path: Path) -> None:
    folder, _ = resnet(tmp_path)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="does not hold an image classifier"):
        build(folder)
