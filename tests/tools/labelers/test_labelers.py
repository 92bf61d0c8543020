from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    DPTForDepthEstimation,
    SegformerForSemanticSegmentation,
)

from memory.errors import DataError, SettingsError, WeightsError
from tests.tools import tiny_transformers
from tools import labelers
from tools.data.drawn import ImageRequest
from tools.data.samples import VOID, Images, Samples
from tools.diffusion.pipeline import MTDMPipeline
from tools.diffusion.weights import new_pipeline
from tools.generators import Generator
from tools.generators import build as build_generator
from tools.generators.mtdm import MTDMGenerator, MTDMOptions
from tools.labelers import feature_decoder, pseudo
from tools.labelers.feature_decoder import HeadSettings
from tools.labelers.labelled import Labelled

CLASSES = ("dark", "bright")
SHAPE = (3, 16, 24)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return build_generator("toy", SHAPE)


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("segformer")
    config = tiny_transformers.segformer("shade", "lamp", "fog")
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dpt")
    model = DPTForDepthEstimation(tiny_transformers.dpt())
    # Untrained, it says next to nothing, which counts as unknown.
    torch.nn.init.constant_(model.head.head[4].bias, 5.0)
    model.save_pretrained(folder)
    return folder


def images(n: int) -> Images:
    return np.random.default_rng(0).integers(0, 255, (n, *SHAPE), dtype=np.uint8)


def make(generator: Generator, **options: Any) -> pseudo.Pseudo:
    return pseudo.build(generator, CLASSES, **options)


MAPPING = {"shade": "dark", "lamp": "bright"}


def test_classes_of_a_model_become_those_of_the_target(
    generator: Generator, segformer: Path, tmp_path: Path
) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text("shade: dark\nlamp: bright\nfog: void\n")
    labels, confidence = make(generator, segmentation=str(segformer), mapping=str(path)).label(
        images(3)
    )
    plain = SegformerForSemanticSegmentation.from_pretrained(segformer).eval()
    pixels = (torch.from_numpy(images(3)).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        logits = plain(pixels).logits
    wanted = torch.nn.functional.interpolate(
        logits, SHAPE[1:], mode="bilinear", align_corners=False
    ).argmax(1)
    expected = torch.tensor([0, 1, VOID])[wanted].numpy()
    assert np.array_equal(labels["segmentation"], expected)
    assert 1 / 3 <= confidence["segmentation"].min() <= confidence["segmentation"].max() <= 1


def test_depth_without_a_unit_is_refused_and_scaled_as_stated(
    generator: Generator, dpt: Path
) -> None:
    with pytest.raises(SettingsError, match="no known unit"):
        make(generator, depth=str(dpt))
    with pytest.raises(SettingsError, match="needs a depth_scale"):
        make(generator, depth=str(dpt), depth_output="inverse")
    said, double, inverse = (
        make(generator, depth=str(dpt), farthest_m=1e6, **options).label(images(2))[0]["depth"]
        for options in (
            {"depth_output": "metres"},
            {"depth_output": "linear", "depth_scale": 2.0},
            {"depth_output": "inverse", "depth_scale": 3.0},
        )
    )
    known = np.isfinite(said)
    assert known.any()
    assert double[known] == pytest.approx(2 * said[known], rel=1e-4)
    assert inverse[known] == pytest.approx(3 / said[known], rel=1e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "needs a model"),
        ({"normals": "x"}, "key of labeler.options 'normals'.*segmentation"),
        ({"mapping": {"shadow": "dark"}}, "Unknown class of the model 'shadow'.*'shade'"),
        ({"mapping": {"shade": "drak"}}, "Unknown class of the target 'drak'.*'dark'"),
        ({"mapping": "nowhere.yaml"}, r"nowhere\.yaml cannot be read"),
        ({"mapping": None}, "No class of the model"),
    ],
)
def test_options_that_cannot_be_used_are_explained(
    generator: Generator, segformer: Path, options: dict[str, Any], match: str
) -> None:
    if "mapping" in options:
        options = {"segmentation": str(segformer), **options}
    with pytest.raises(SettingsError, match=match):
        make(generator, **options)


def test_folders_that_cannot_be_used_are_explained(
    generator: Generator, segformer: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"lacks config\.json, model\.safetensors"):
        make(generator, depth=str(tmp_path))
    (tmp_path / "config.json").write_bytes((segformer / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin is a pickle or a program"):
        make(generator, segmentation=str(tmp_path), mapping=MAPPING)
    with pytest.raises(WeightsError, match="a model for depth estimation"):
        make(generator, depth=str(segformer), depth_output="metres")


def test_labels_come_with_the_images_of_a_generator(generator: Generator, segformer: Path) -> None:
    labeler = labelers.build(
        "pseudo", generator, CLASSES, segmentation=str(segformer), mapping=MAPPING
    )
    assert isinstance(labeler, labelers.Labeler)
    labelled = Labelled(generator, labeler)
    requests = [ImageRequest("a cell", "p", i, 0) for i in range(3)]
    drawn = labelled.draw(requests)
    assert np.array_equal(drawn.images, generator.draw(requests).images)
    assert set(drawn.labels) == set(labeler.kinds) == {"segmentation"}
    assert labeler.identity in labelled.identity


def pictures(n: int, seed: int = 0) -> Samples:
    """Return noise with a bright rectangle, which is class 1 and near."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 90, (n, *SHAPE), dtype=np.uint8)
    ids = np.zeros((n, *SHAPE[1:]), np.uint8)
    for i in range(n):
        top, left = rng.integers(1, 8), rng.integers(1, 14)
        ids[i, top : top + 7, left : left + 9] = 1
    values += 130 * ids[:, None]
    depth = np.where(ids == 1, 5, 50).astype(np.float32)
    names = [f"{seed}-{i}" for i in range(n)]
    labels: dict[str, NDArray[Any]] = {"segmentation": ids, "depth": depth}
    return Samples(values, np.zeros(n, np.int64), [{}] * n, names, labels=labels)


@pytest.fixture(scope="module")
def pipeline() -> MTDMPipeline:
    torch.manual_seed(0)
    made = new_pipeline(SHAPE, 4, (16, 32), 0.4, 0.25)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def decoder(pipeline: MTDMPipeline) -> feature_decoder.FeatureDecoder:
    settings = HeadSettings(width=32, members=2, steps=250, timesteps=(50,), batch_size=8)
    return feature_decoder.fit(pipeline, pictures(12), CLASSES, settings)


def test_a_head_learns_mirrored_images_only_where_the_target_allows(
    pipeline: MTDMPipeline,
) -> None:
    settings = HeadSettings(width=16, members=1, steps=3, timesteps=(50,))
    means = []
    for flips in (("horizontal",), ("vertical",), ()):
        decoder = feature_decoder.fit(pipeline, pictures(4), CLASSES, settings, flips=flips)
        means.append(decoder.heads.state_dict()["0.mean"])
    assert not means[0].equal(means[1])
    assert means[1].equal(means[2])


def test_a_head_labels_images_that_it_has_not_seen(
    decoder: feature_decoder.FeatureDecoder,
) -> None:
    unseen = pictures(12, seed=1)
    found = feature_decoder.validation_figures(decoder, unseen, CLASSES)
    assert found["segmentation: miou"] > 0.8
    assert found["depth: delta1"] > 0.8
    labels, confidence = decoder.label(unseen.images)
    wrong = labels["segmentation"] != unseen.labels["segmentation"]
    assert confidence["segmentation"][wrong].mean() < confidence["segmentation"][~wrong].mean()
    alone, _ = decoder.label(unseen.images[3:4])
    assert alone["depth"][0] == pytest.approx(labels["depth"][3], rel=1e-3)


def test_a_saved_head_says_the_same_of_its_own_mtdm_alone(
    decoder: feature_decoder.FeatureDecoder, pipeline: MTDMPipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "head"
    feature_decoder.save_head(folder, decoder, {"miou": 0.5})
    assert json.loads((folder / "head.json").read_text("utf-8"))["figures"] == {"miou": 0.5}
    drawer = MTDMGenerator(pipeline, MTDMOptions(steps=2))
    again = feature_decoder.build(drawer, CLASSES, head=str(folder))
    seen = pictures(2).images
    assert np.array_equal(again.label(seen)[0]["depth"], decoder.label(seen)[0]["depth"])
    drawn = Labelled(drawer, again).draw([ImageRequest("a cell", "p", 0, 0)])
    assert set(drawn.labels) == set(drawn.confidence) == {"segmentation", "depth"}
    with pytest.raises(WeightsError, match="fitted to the MTDM"):
        feature_decoder.load_head(folder, new_pipeline(SHAPE, 4, (16, 32), 0.4, 0.25))
    with pytest.raises(WeightsError, match="knows the classes dark, bright"):
        feature_decoder.build(drawer, ("road", "sky"), head=str(folder))
    path = folder / "head.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match="damaged"):
        feature_decoder.load_head(folder, pipeline)
    path.unlink()
    with pytest.raises(WeightsError, match=r"lacks head\.safetensors"):
        feature_decoder.load_head(folder, pipeline)


def test_what_a_head_cannot_learn_from_is_explained(
    generator: Generator, pipeline: MTDMPipeline
) -> None:
    plain = Samples(images(2), np.zeros(2, np.int64), [{}] * 2, ["a", "b"])
    with pytest.raises(DataError, match="images have none"):
        feature_decoder.fit(pipeline, plain, (), HeadSettings())
    with pytest.raises(DataError, match="smaller -n"):
        feature_decoder.labelled(plain, 2, 1, 0)
    with pytest.raises(SettingsError, match="the generator is 'toy'"):
        feature_decoder.build(generator, CLASSES, head="x")
