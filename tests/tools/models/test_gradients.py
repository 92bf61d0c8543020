from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from benchmarks.credit import cosine, prompt_agreement
from eval.credit import head_gradients
from memory.errors import SettingsError
from tools import tasks
from tools.data.samples import Samples
from tools.models.criteria import sample_gradients
from tools.models.embeddings import embed_by_dstm, embed_by_several, last_layer
from tools.settings import TrainSettings
from tools.tasks.dense import UNet
from tools.train_dstm import train_model


def test_gradients_of_a_linear_layer_are_outer_products() -> None:
    (gradient,) = head_gradients(np.array([[1.0, 2.0]]), np.array([[3.0, -1.0]]))
    assert gradient.tolist() == [3, 6, 3, -1, -2, -1]
    maps = np.arange(8.0).reshape(1, 2, 2, 2), np.ones((1, 1, 2, 2))
    assert head_gradients(*maps).tolist() == [[6, 22, 4]]


def test_agreement_is_the_cosine_of_mean_gradients() -> None:
    images = np.array([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    found = prompt_agreement(images, ["a", "a", "b", "c"], np.array([[2.0, 0.0]]))
    assert found == {"a": 1, "b": -1, "c": 0}
    assert cosine(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(0.5**0.5)


def test_gradients_are_those_of_autograd(target: Any, quick: TrainSettings) -> None:
    task, samples = tasks.build("classification"), target.split("feedback").take(range(3))
    torch.manual_seed(0)
    model = task.build_model(target.image_shape, 2, quick).eval()
    found = sample_gradients(model, task, samples, quick)
    layer = last_layer(model)
    x = torch.from_numpy(samples.images).float() / 255
    for i in range(3):
        model.zero_grad()
        torch.nn.functional.cross_entropy(
            model(x[i : i + 1]), torch.tensor([samples.classes[i]])
        ).backward()
        assert layer.weight.grad is not None and layer.bias is not None
        assert layer.bias.grad is not None
        expected = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], dim=1).flatten()
        np.testing.assert_allclose(found[i], expected.numpy(), atol=1e-5)


def test_models_that_label_pixels_have_gradients_and_embeddings() -> None:
    rng = np.random.default_rng(0)
    samples = Samples(
        images=rng.integers(0, 255, (3, 3, 16, 24), dtype=np.uint8),
        classes=np.zeros(3, np.int64),
        attributes=[{}] * 3,
        ids=["a", "b", "c"],
        labels={"segmentation": rng.integers(0, 4, (3, 16, 24), dtype=np.uint8)},
    )
    model = UNet(3, 4)
    found = sample_gradients(model, tasks.build("segmentation"), samples, TrainSettings())
    assert found.shape == (3, 4 * 17)
    assert np.isfinite(found).all() and found.std() > 0
    assert embed_by_dstm(model)(samples.images).shape == (3, 128)


def test_embeddings_tell_classes_apart(target: Any, quick: TrainSettings) -> None:
    task, train = tasks.build("classification"), target.split("generator")
    model, _ = train_model(train, task, 2, quick)
    feedback = target.split("feedback")
    vectors = embed_by_dstm(model)(feedback.images)
    assert vectors.shape == (80, 192)
    easy = np.array([a["light"] == "good" for a in feedback.attributes])
    centres = [vectors[easy & (feedback.classes == k)].mean(0) for k in (0, 1)]
    nearest = np.linalg.norm(vectors[:, None] - np.array(centres), axis=2).argmin(1)
    assert (nearest == feedback.classes)[easy].mean() > 0.9


def test_several_embeddings_are_one() -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 1, 4, 4), dtype=np.uint8)
    flat = images.reshape(20, -1).astype(float)
    joint = embed_by_several([lambda _: flat, lambda _: 9 * flat[:, :3]])(images)
    assert joint.shape == (20, 16 + 3)
    assert (joint[:, :16] ** 2).sum() == pytest.approx((joint[:, 16:] ** 2).sum())


def test_a_model_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(SettingsError, match="neither a linear layer"):
        last_layer(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3)))


@pytest.mark.slow
def test_agreement_ranks_prompts_as_leaving_them_out_does(target: Any) -> None:
    task = tasks.build("classification")
    settings = TrainSettings(steps=80, batch_size=16, learning_rate=0.005)
    train, feedback = target.split("generator"), target.split("feedback")
    owner = np.arange(80) // 8
    flipped = owner % 3 == 0
    classes = np.where(flipped, 1 - train.classes, train.classes)
    made = Samples(train.images, classes, train.attributes, train.ids)
    agreement, effect = np.zeros(10), np.zeros(10)
    for seed in range(3):
        chosen = settings.model_copy(update={"seed": seed})

        def loss(keep: np.ndarray[Any, Any], chosen: TrainSettings = chosen) -> Any:
            model, _ = train_model(made.take(np.flatnonzero(keep)), task, 2, chosen)
            said = task.predict(model, feedback.images)
            return model, -np.log(said[np.arange(80), feedback.classes].clip(1e-3)).mean()

        model, whole = loss(np.ones(80, bool))
        images = sample_gradients(model, task, made, chosen)
        photographs = sample_gradients(model, task, feedback, chosen)
        found = prompt_agreement(images, [str(p) for p in owner], photographs)
        agreement += [found[str(p)] for p in range(10)]
        effect += [loss(owner != p)[1] - whole for p in range(10)]
    assert spearmanr(agreement, effect).statistic > 0.3
