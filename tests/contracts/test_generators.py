"""What every generator must hold; a new file in tools/generators joins by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tools.tiny_biggan import biggan
from tests.tools.tiny_diffusers import stable_diffusion
from tests.tools.tiny_scenes import Scenes, untrained_joint
from tools import generators
from tools.data.drawn import ImageRequest
from tools.data.samples import Samples
from tools.diffusion.weights import new_pipeline
from tools.generators import Generator
from tools.plugins import names

SHAPE = (1, 64, 64)
OTHER_SHAPES = {"streets": (3, 64, 96), "label_first": (3, 64, 96), "joint": (3, 16, 24)}
OPTIONS: dict[str, dict[str, object]] = {
    "class_gan": {"vocabulary": "elpv"},
    "label_first": {"source": {"name": "streets"}, "strength": 0.5},
}


@pytest.fixture(scope="module", params=names("tools.generators"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def weights(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an untrained, small model: an MTDM as `shaping pretrain` would leave it, or another."""
    folder = tmp_path_factory.mktemp("weights")
    if name == "class_gan":
        biggan(folder)
    elif name in ("text2image", "label_first", "joint"):
        folder /= "model"
        stable_diffusion(folder)
    else:
        new_pipeline((1, 64, 64), 4, (16, 32), 0.6, 0.2).save_pretrained(folder)
    if name == "joint":
        untrained_joint(folder, folder.parent / "joint", Scenes(), (16, 24))
    return folder


@pytest.fixture
def shape(name: str) -> tuple[int, int, int]:
    return OTHER_SHAPES.get(name, SHAPE)


@pytest.fixture
def generator(name: str, shape: tuple[int, int, int], weights: Path) -> Generator:
    return build(name, shape, weights)


def build(name: str, shape: tuple[int, int, int], weights: Path) -> Generator:
    options = OPTIONS.get(name, {})
    if name == "joint":
        options = {"joint": str(weights.parent / "joint")}
    return generators.build(name, shape, "cpu", weights=str(weights), steps=2, **options)


def requests(n: int, seed: int = 0) -> list[ImageRequest]:
    texts = ["a dark poly cell, with a clear defect", "an intact mono cell"]
    return [ImageRequest(texts[i % 2], f"r001p{i % 2:02d}", i, seed) for i in range(n)]


def test_draws_one_image_per_request(generator: Generator, shape: tuple[int, int, int]) -> None:
    drawn = generator.draw(requests(3))
    assert drawn.images.shape == (3, *shape)
    assert drawn.images.dtype == np.uint8
    # Raises DataError for labels that do not fit.
    Samples(drawn.images, np.zeros(3, np.int64), [{}] * 3, ["a", "b", "c"], labels=drawn.labels)
    assert isinstance(generator, Generator)


def test_same_request_same_image_in_whatever_company(generator: Generator) -> None:
    together = generator.draw(requests(5)).images
    alone = np.concatenate([generator.draw([request]).images for request in requests(5)])
    difference = np.abs(together.astype(int) - alone.astype(int))
    # Kernels may round differently for another batch size; nothing else may differ.
    assert difference.max() <= 1
    assert (generator.draw(requests(5)).images == together).all()


def test_seed_prompt_and_index_each_change_the_image(generator: Generator) -> None:
    (one,) = requests(1)
    others = [
        ImageRequest(one.text, one.prompt_id, one.index, 1),
        ImageRequest(one.text, "r002p00", one.index, 0),
        ImageRequest(one.text, one.prompt_id, 7, 0),
    ]
    images = generator.draw([one, *others]).images
    assert all((images[0] != image).any() for image in images[1:])


def test_identity_names_what_draws(
    generator: Generator, shape: tuple[int, int, int], weights: Path
) -> None:
    same = build(generator.name, shape, weights)
    assert generator.identity.startswith(generator.name)
    assert same.identity == generator.identity


def test_counts_tokens(generator: Generator) -> None:
    short, long = generator.count_tokens("a cell"), generator.count_tokens("a cell " * 50)
    assert 0 < short <= generator.max_tokens < long
