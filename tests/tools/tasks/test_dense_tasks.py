"""The tasks that label every pixel, on rendered streets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memory.errors import SettingsError, WeightsError
from tests.tools import tiny_transformers
from tools import tasks
from tools.data.samples import VOID, Samples
from tools.models.dstm_file import load_model, save_model
from tools.settings import TrainSettings
from tools.streets import CLASS_NAMES, render
from tools.tasks import Minibatch, Slicing
from tools.train_dstm import train_model

QUICK = TrainSettings(model="unet", steps=60, batch_size=8, learning_rate=0.005)


def streets(n: int, first: int = 0) -> Samples:
    scenes = [render({"light": "day", "weather": "clear"}, first + i) for i in range(n)]
    kinds = ("segmentation", "depth", "normals")
    return Samples(
        images=np.stack([scene.image for scene in scenes]),
        classes=np.zeros(n, np.int64),
        attributes=[scene.attributes for scene in scenes],
        ids=[str(first + i) for i in range(n)],
        labels={kind: np.stack([getattr(s, kind) for s in scenes]) for kind in kinds},
    )


def smaller(samples: Samples) -> Samples:
    """Take every second pixel: 32x48, on which a net learns in a quarter of the time."""
    return replace(
        samples,
        images=np.ascontiguousarray(samples.images[..., ::2, ::2]),
        labels={
            kind: np.ascontiguousarray(values[..., ::2, ::2])
            for kind, values in samples.labels.items()
        },
    )


@pytest.fixture(scope="module")
def known() -> Samples:
    return smaller(streets(60))


@pytest.fixture(scope="module")
def unseen() -> Samples:
    return streets(20, first=1000)


# A constant answer reaches a mIoU of 0.03, a delta1 of 0.11 and a mean angle of 57 degrees; three
# seeds gave 0.27 to 0.32, 0.58 to 0.60 and 25 to 27 degrees.
@pytest.mark.parametrize(
    ("name", "metric", "low", "high"),
    [
        ("segmentation", "miou", 0.2, 1),
        ("depth", "delta1", 0.35, 1),
        ("normals", "mean_deg", 0, 40),
    ],
)
def test_a_small_net_learns_streets(
    known: Samples,
    unseen: Samples,
    name: str,
    metric: str,
    low: float,
    high: float,
    tmp_path: Path,
) -> None:
    task, unseen = tasks.build(name), smaller(unseen)
    model, _ = train_model(known, task, len(CLASS_NAMES), QUICK)
    said = task.predict(model, unseen.images)
    report = task.report(said, unseen, CLASS_NAMES, 1, "test", Slicing([("layout",)], 2))
    assert low <= report.metrics[metric].value <= high
    save_model(tmp_path, model, {"task": name, "class_names": list(CLASS_NAMES)})
    restored, _ = load_model(tmp_path)
    assert np.array_equal(task.predict(restored, unseen.images), said)


def blank(kind: str, samples: Samples) -> Samples:
    """Remove what is known of the left half, and all of the first image."""
    values = samples.labels[kind].copy()
    unknown: Any = VOID if kind == "segmentation" else np.nan
    values[..., :48] = unknown
    values[0] = unknown
    return Samples(
        samples.images, samples.classes, samples.attributes, samples.ids, labels={kind: values}
    )


PARTS = ("segmentation", "depth", "normals")


def test_tasks_learned_together(known: Samples, unseen: Samples, tmp_path: Path) -> None:
    task, unseen = tasks.build("segmentation+depth"), smaller(unseen)
    assert task.needs == ("segmentation", "depth")
    longer = QUICK.model_copy(update={"steps": 90})
    model, _ = train_model(known, task, len(CLASS_NAMES), longer)
    said = task.predict(model, unseen.images)
    assert said.shape == (20, 2, 32, 48)
    report = task.report(said, unseen, CLASS_NAMES, 1, "test", Slicing([("layout",)], 2))
    assert report.metrics["miou"].value > 0.15
    assert report.metrics["delta1"].value > 0.25
    save_model(tmp_path, model, {"task": task.name, "class_names": list(CLASS_NAMES)})
    restored, meta = load_model(tmp_path)
    assert np.array_equal(tasks.build(meta["task"]).predict(restored, unseen.images), said)


def test_a_right_answer_to_several_tasks_is_right_in_each(unseen: Samples) -> None:
    task = tasks.build("multi")
    truth = task.labels(unseen).numpy()
    report = task.report(truth, unseen, CLASS_NAMES, 1, "test", Slicing([("layout",)], 2))
    for metric in ("mean_score", "miou", "delta1", "within_11"):
        assert report.metrics[metric].value == 1
    assert all(score.accuracy.value == 1 for score in report.slices)
    # A third of the score is lost with the third of the labels.
    truth[:, 1] *= 3
    report = task.report(truth, unseen, CLASS_NAMES, 1, "test", Slicing())
    assert report.metrics["delta1"].value == 0
    assert report.metrics["mean_score"].value == pytest.approx(2 / 3)
    pictures, captions = task.pictures(truth, unseen, CLASS_NAMES)
    assert pictures.shape == (20, 3, 3 * 64, 3 * 96)
    assert captions[0].count(";") == 2


@pytest.mark.parametrize("missing", PARTS)
def test_a_street_that_lacks_a_label_trains_the_other_tasks(unseen: Samples, missing: str) -> None:
    task = tasks.build("multi")
    model = task.build_model((3, 64, 96), len(CLASS_NAMES), QUICK)
    images = torch.from_numpy(unseen.images).float() / 255
    partly = replace(unseen, labels={**unseen.labels, **blank(missing, unseen).labels})
    plain = QUICK.model_copy(update={"balance_classes": False})
    outputs = model(images)
    together = task.loss(outputs, Minibatch(images, task.labels(partly)), plain)
    alone = {
        name: tasks.build(name).loss(
            part, Minibatch(images, tasks.build(name).labels(partly)), plain
        )
        for name, part in zip(PARTS, outputs.split([len(CLASS_NAMES), 1, 3], dim=1), strict=True)
    }
    assert torch.allclose(together, sum(alone.values(), torch.zeros(20)), atol=1e-5)
    assert alone[missing][0] == 0
    assert all(loss[0] > 0 for name, loss in alone.items() if name != missing)
    said = task.predict(model, unseen.images)
    report = task.report(said, partly, CLASS_NAMES, 1, "test", Slicing())
    assert report.metrics["mean_score"].n == 20
    assert report.metrics[tasks.build(missing).metric].n == 19


def test_what_cannot_be_learned_together_is_named() -> None:
    with pytest.raises(SettingsError, match="'classification' cannot be learned together"):
        tasks.build("depth+classification")


@pytest.mark.parametrize("name", PARTS)
def test_unknown_pixels_do_not_count(unseen: Samples, name: str) -> None:
    task = tasks.build(name)
    model = task.build_model((3, 64, 96), len(CLASS_NAMES), QUICK)
    images = torch.from_numpy(unseen.images).float() / 255
    outputs = model(images)
    half = blank(name, unseen)
    plain = QUICK.model_copy(update={"balance_classes": False})
    loss = task.loss(outputs, Minibatch(images, task.labels(half)), plain)
    assert loss[0] == 0
    assert torch.isfinite(loss).all()
    # What is said of unknown pixels changes nothing.
    other = outputs.detach().clone()
    other[..., :48] += 3
    assert torch.allclose(task.loss(other, Minibatch(images, task.labels(half)), plain), loss)
    said = task.predict(model, unseen.images)
    report = task.report(said, half, CLASS_NAMES, 1, "test", Slicing())
    assert report.metrics[task.metric].n == 19


def test_a_mirrored_street_has_mirrored_normals(unseen: Samples) -> None:
    task = tasks.build("normals")
    labels = task.labels(unseen)
    batch = Minibatch(torch.from_numpy(unseen.images).float() / 255, labels)
    found = task.augment(batch, torch.Generator().manual_seed(0)).labels
    mirrored = labels.flip(-1) * torch.tensor([-1.0, 1, 1]).view(3, 1, 1)
    kinds = {
        "same" if torch.equal(a, b) else "mirrored" if torch.equal(a, c) else "neither"
        for a, b, c in zip(found, labels, mirrored, strict=True)
    }
    assert kinds == {"same", "mirrored"}


@pytest.mark.parametrize(
    ("name", "config"),
    [("segmentation", tiny_transformers.segformer()), ("depth", tiny_transformers.dpt())],
)
def test_models_of_transformers_are_trained(
    unseen: Samples, tmp_path: Path, name: str, config: Any
) -> None:
    folder = str(tmp_path / "model")
    config.save_pretrained(folder)
    task = tasks.build(name)
    settings = TrainSettings(model=folder, steps=2, batch_size=2)
    model, _ = train_model(unseen, task, len(CLASS_NAMES), settings)
    said = task.predict(model, unseen.images[:3])
    assert said.shape == (3, 64, 96)
    save_model(tmp_path / "dstm", model, {"task": name})
    restored, _ = load_model(tmp_path / "dstm")
    assert np.array_equal(task.predict(restored, unseen.images[:3]), said)


def test_unknown_models_are_named(tmp_path: Path) -> None:
    task = tasks.build("segmentation")
    with pytest.raises(SettingsError, match=r"Unknown model 'convnet'.*unet"):
        task.build_model((3, 64, 96), 11, TrainSettings())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="semantic segmentation"):
        task.build_model((3, 64, 96), 11, TrainSettings(model=str(tmp_path)))
