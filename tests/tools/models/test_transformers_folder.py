"""Models of the hub are read from its cache on this machine, as folders are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ViTForImageClassification

from memory.errors import SettingsError, ShapingError, WeightsError
from tests.tools.tiny_transformers import vit
from tools.settings import DstmSettings
from tools.tasks.classification import Classification, TransformersClassifier

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "an-organisation/tiny-vit"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def snapshot(cache: Path) -> Path:
    """Return the folder of a small classifier of four classes, in the cache's layout."""
    folder = cache / f"models--{NAME.replace('/', '--')}" / "snapshots" / COMMIT
    config = vit(num_channels=3, num_labels=4)
    ViTForImageClassification(config).save_pretrained(folder)
    return folder


def build(model: str) -> TransformersClassifier:
    built = Classification().build_model((1, 32, 32), 3, DstmSettings(model=model))
    assert isinstance(built, TransformersClassifier)
    return built


def test_a_model_in_the_cache_keeps_its_weights_and_gets_our_classes(cache: Path) -> None:
    folder = snapshot(cache)
    model, other = build(f"{NAME}@{COMMIT}"), build(str(folder))
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    one, two = (m.network.state_dict() for m in (model, other))
    backbone = [name for name in one if "classifier" not in name]
    assert backbone and all(torch.equal(one[name], two[name]) for name in backbone)


@pytest.mark.parametrize(
    ("model", "lost", "error", "words"),
    [
        (NAME, "", SettingsError, f"{NAME}@COMMIT"),
        (f"{NAME}@{'f' * 40}", "", WeightsError, f"hf download {NAME} --revision {'f' * 40}"),
        (f"{NAME}@{COMMIT}", "model.safetensors", WeightsError, "no model.safetensors"),
        ("no model at all", "", SettingsError, "ORGANISATION/NAME@COMMIT"),
    ],
)
def test_what_is_missing_is_named(
    cache: Path, model: str, lost: str, error: type[ShapingError], words: str
) -> None:
    folder = snapshot(cache)
    if lost:
        (folder / lost).unlink()
    with pytest.raises(error, match=words):
        build(model)


def test_values_that_a_folder_does_not_give_are_said(tmp_path: Path) -> None:
    ViTForImageClassification(vit(num_channels=3, num_labels=4)).save_pretrained(tmp_path)
    assert "preprocessor_config.json" in build(str(tmp_path)).caveat
    text = '{"image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}'
    (tmp_path / "preprocessor_config.json").write_text(text)
    assert build(str(tmp_path)).caveat == ""
