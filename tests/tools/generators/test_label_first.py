"""The generator `label_first` on tiny models of diffusers' real classes, built and saved here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from memory.errors import SettingsError, WeightsError
from tests.tools.tiny_diffusers import CONTROLNETS, MODELS, SDXL, controlnet
from tools import generators
from tools.data.drawn import ImageRequest
from tools.data.samples import VOID
from tools.generators import Generator
from tools.generators.label_first.conditions import condition, read_palette

# diffusers 0.42 has not followed numpy 2, nor its own moves, everywhere.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.FluxPosEmbed. is deprecated:FutureWarning"),
]

SHAPE = (3, 64, 96)
TEXTS = ("a street by night", "a busy street in the rain")
REQUESTS = [ImageRequest(TEXTS[i % 2], f"p{i % 2}", i, 0) for i in range(3)]
STREETS = {"name": "streets"}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control")
    controlnet(folder)
    return folder


def build(folder: Path, source: object = STREETS, **options: object) -> Generator:
    return generators.build(
        "label_first", SHAPE, "cpu", weights=str(folder), steps=2, source=source, **options
    )


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("strength", [None, 0.5])
def test_the_same_images_for_any_batch_size(
    kind: str, strength: float | None, tmp_path: Path
) -> None:
    MODELS[kind](tmp_path / "model")
    CONTROLNETS[kind](tmp_path / "control")
    generator = build(
        tmp_path / "model", controlnet=str(tmp_path / "control"), strength=strength, size=(64, 96)
    )
    together = generator.draw(REQUESTS).images
    assert together.shape == (3, *SHAPE)
    alone = np.concatenate([generator.draw([request]).images for request in REQUESTS])
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1
    assert (together[0] != together[2]).any()


def test_labels_are_those_of_the_source(sd: Path, control: Path) -> None:
    drawn = build(sd, controlnet=str(control)).draw(REQUESTS)
    source = generators.build("streets", SHAPE).draw(REQUESTS)
    assert set(drawn.labels) == {"segmentation", "depth", "normals"}
    for kind, values in source.labels.items():
        assert (drawn.labels[kind] == values).all()
    assert (drawn.images != source.images).any()


def test_what_steers_changes_identity_and_images(sd: Path, control: Path) -> None:
    steered = {"controlnet": str(control)}
    drawers = [
        build(sd, **steered),
        build(sd, **steered, condition="normals"),
        build(sd, **steered, condition="segmentation"),
        build(sd, **steered, condition="segmentation", palette="streets"),
        build(sd, **steered, control_scale=0.3),
        build(sd, strength=0.5),
        build(sd, strength=1.0),
        build(sd, **steered, strength=0.5),
        build(sd, {**STREETS, "style": "shifted"}, **steered),
    ]
    assert len({drawer.identity for drawer in drawers}) == len(drawers)
    images = [drawer.draw(REQUESTS[:1]).images.tobytes() for drawer in drawers]
    assert len(set(images)) == len(images), [images.index(image) for image in images]
    assert build(sd, **steered).identity == drawers[0].identity


def test_pictures_have_the_aspect_ratio_of_the_labels(sd: Path, control: Path) -> None:
    # The tiny model's own size is 32x32, its sides are multiples of 2.
    sizes = []
    generator = build(sd, controlnet=str(control))
    generator.pipeline.vae.decoder.register_forward_hook(  # type: ignore[attr-defined]
        lambda _, __, out: sizes.append(tuple(out.shape[2:]))
    )
    generator.draw(REQUESTS[:1])
    assert sizes == [(28, 42)]
    with pytest.raises(SettingsError, match=r"multiple of \[4, 6\]"):
        build(sd, controlnet=str(control), size=32)


def test_a_little_strength_keeps_more_of_the_source(sd: Path) -> None:
    changes = []
    for strength in (0.2, 1.0):
        plain, shifted = (
            generators.build(
                "label_first",
                SHAPE,
                weights=str(sd),
                steps=10,
                source={**STREETS, "style": style},
                strength=strength,
            ).draw(REQUESTS[:1])
            for style in ("plain", "shifted")
        )
        changes.append(np.abs(plain.images.astype(int) - shifted.images.astype(int)).mean())
    assert changes[0] > 4 * changes[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "options.controlnet .*options.strength"),
        ({"source": {}, "strength": 0.5}, "must name the generator"),
        ({"source": {"name": "streats"}, "strength": 0.5}, "Did you mean 'streets'"),
        ({"source": {"name": "toy"}, "strength": 0.5}, "draws no labels of pixels"),
        ({"strength": 0.3}, "leaves none. Set generator.steps to 4 or more"),
        ({"strength": 1.5}, "generator.options.strength cannot be 1.5"),
        ({"strength": 0.5, "condition": "edges"}, "generator.options.condition cannot be"),
        ({"strength": 0.5, "palette": "voc"}, "must be streets, ade20k.*got voc"),
        ({"strength": 0.5, "palette": [[0, 0, 256]]}, r"whole numbers in 0\.\.255"),
    ],
)
def test_settings_that_do_not_go_together(sd: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        build(sd, **options)


def test_controlnets_that_cannot_be_used(sd: Path, control: Path, tmp_path: Path) -> None:
    def refused(folder: Path, told: str) -> None:
        with pytest.raises(WeightsError, match=told):
            build(sd, controlnet=str(folder))

    refused(tmp_path / "none", "is not there or has no config.json")
    controlnet(tmp_path / "sdxl", 32, **SDXL)
    refused(tmp_path / "sdxl", "its cross_attention_dim is 32, the model's is 16")
    CONTROLNETS["flux"](tmp_path / "flux")
    refused(tmp_path / "flux", "it is a FluxControlNetModel, expected a ControlNetModel")
    name = "diffusion_pytorch_model.safetensors"
    pickled = shutil.copytree(control, tmp_path / "pickled")
    (pickled / name).rename(pickled / "diffusion_pytorch_model.bin")
    refused(pickled, "is a pickle")
    cut = shutil.copytree(control, tmp_path / "cut")
    (cut / name).write_bytes((cut / name).read_bytes()[:-100])
    refused(cut, "damaged")
    gray = shutil.copytree(control, tmp_path / "gray")
    config = json.loads((gray / "config.json").read_text())
    (gray / "config.json").write_text(json.dumps({**config, "conditioning_channels": 1}))
    refused(gray, "does not take one RGB picture")


def test_depth_as_a_picture_is_its_inverse() -> None:
    depth = np.array([[[2.0, 4.0], [np.nan, 1.0]], [[3.0, 3.0], [3.0, 3.0]]], np.float32)
    seen = condition("depth", depth, read_palette("ade20k"))
    assert seen.shape == (2, 3, 2, 2)
    assert seen[0, 0].tolist() == [[85, 0], [0, 255]]
    assert (seen[1] == 0).all()


def test_classes_as_a_picture_have_their_colours() -> None:
    ids, given = np.array([[[0, 1], [VOID, 0]]], np.uint8), [[1, 2, 3], [4, 5, 6]]
    seen = condition("segmentation", ids, read_palette(given))
    assert seen[0, :, 0, 1].tolist() == [4, 5, 6]
    assert (seen[0, :, 1, 0] == 0).all()
    assert len(read_palette("ade20k")) == len(read_palette("streets")) == 11
    with pytest.raises(SettingsError, match="2 colours, but the labels have the class id 7"):
        condition("segmentation", np.full((1, 1, 1), 7, np.uint8), read_palette(given))
