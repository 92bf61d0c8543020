"""The generator `class_gan` on tiny BigGANs, built and saved here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import batch_norm, interpolate
from transformers import SegformerForSemanticSegmentation

from memory.errors import SettingsError, WeightsError
from tests.tools import tiny_transformers
from tests.tools.tiny_biggan import CONFIG, biggan
from tools import generators, labelers
from tools.compute.within_memory import WithinMemory
from tools.compute.worker import Recipe
from tools.data.drawn import ImageRequest
from tools.generators import Generator, undrawn
from tools.generators.class_gan import truncated
from tools.generators.class_gan.biggan import BigGAN, BigGANConfig
from tools.generators.class_gan.class_words import ClassWords

SHAPE = (1, 64, 64)
TEXTS = ["an intact mono cell", "a dark poly cell, with a clear defect"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("gan")
    biggan(found)
    return found


def build(
    folder: Path, shape: tuple[int, int, int] = SHAPE, vocabulary: str | None = "elpv", **more: Any
) -> Generator:
    given = {"weights": str(folder), "vocabulary": vocabulary, **more}
    return generators.build("class_gan", shape, "cpu", steps=8, guidance=2.0, **given)


def request(text: str, index: int = 0) -> ImageRequest:
    return ImageRequest(text, "p", index, 0)


def test_the_network_computes_what_biggan_does(tmp_path: Path) -> None:
    """One block against the formulas of the paper's appendix, written out."""
    network = biggan(tmp_path, channels=[8, 8], latent_size=6, image_size=8, attention=[8])
    w = load_file(tmp_path / "model.safetensors")
    latents, classes = torch.randn(2, 6), torch.tensor([0, 2])

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        condition = torch.cat([w["shared.weight"][classes], latents[:, 3:]], 1)
        gain, bias = (condition @ w[f"{name}.{part}.weight"].T for part in ("gain", "bias"))
        x = batch_norm(x, w[f"{name}.stored_mean"], w[f"{name}.stored_var"])
        return (x * (1 + gain[..., None, None]) + bias[..., None, None]).relu()

    def conv(x: torch.Tensor, name: str, padding: int = 0) -> torch.Tensor:
        return torch.conv2d(x, w[f"{name}.weight"], w.get(f"{name}.bias"), padding=padding)

    x = (latents[:, :3] @ w["linear.weight"].T + w["linear.bias"]).reshape(2, 8, 4, 4)
    h = conv(interpolate(normed(x, "blocks.0.0.bn1"), scale_factor=2), "blocks.0.0.conv1", 1)
    h = conv(normed(h, "blocks.0.0.bn2"), "blocks.0.0.conv2", 1)
    x = h + conv(interpolate(x, scale_factor=2), "blocks.0.0.conv_sc")
    theta, phi, g = (conv(x, f"blocks.0.1.{name}") for name in ("theta", "phi", "g"))
    keys, values = (torch.max_pool2d(part, 2).reshape(2, -1, 16) for part in (phi, g))
    shares = torch.einsum("ncq,nck->nqk", theta.reshape(2, -1, 64), keys).softmax(2)
    seen = torch.einsum("nqk,nck->ncq", shares, values).reshape(2, 4, 8, 8)
    x = x + w["blocks.0.1.gamma"] * conv(seen, "blocks.0.1.o")
    mean, var, gain, bias = (
        w[f"output_layer.0.{part}"] for part in ("stored_mean", "stored_var", "gain", "bias")
    )
    x = batch_norm(x, mean, var, gain, bias).relu()
    expected = conv(x, "output_layer.2", 1).tanh()
    with torch.no_grad():
        found = network(latents, classes)
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_prompt_decides_the_class_and_nothing_else(folder: Path) -> None:
    generator = build(folder)
    sound, cracked, elsewhere = (
        generator.draw([request(text, i) for i in range(8)]).images
        for text in (*TEXTS, "a bright mono cell, with a likely defect")
    )
    assert (sound != cracked).any((1, 2, 3)).all()
    assert (cracked == elsewhere).all()
    one_kind = build(folder, classes={"sound": "functional", "crack": "defective"})
    same = (one_kind.draw([request(TEXTS[1], i) for i in range(8)]).images == cracked).all(
        (1, 2, 3)
    )
    # Two classes serve `defective`, and both are drawn.
    assert 0 < same.sum() < 8
    named = generator.draw([request("a broken cell: crack", i) for i in range(8)]).images
    assert (named == one_kind.draw([request(TEXTS[1], i) for i in range(8)]).images).all()


def test_the_same_images_for_any_batch_size(folder: Path) -> None:
    requests = [request(TEXTS[i % 2], i) for i in range(7)]
    together = build(folder).draw(requests).images
    for n in (1, 3):
        told: list[int] = []
        pieces = WithinMemory(build(folder), n, told.append).draw(requests).images
        assert np.abs(together.astype(int) - pieces.astype(int)).max() <= 1


def test_truncation_is_that_of_a_cut_normal_distribution(folder: Path) -> None:
    latents = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    cut = truncated(latents, 0.5)
    assert cut.abs().max() <= 0.5
    # Of a normal distribution cut at +-0.5: Var = 1 - 2 t phi(t) / (2 Phi(t) - 1).
    assert cut.std().item() == pytest.approx(0.2847, abs=0.002)
    assert (cut.diff()[latents.diff() > 0] >= 0).all()
    assert truncated(latents, None) is latents
    drawers = [build(folder), build(folder, truncation=0.5), build(folder, truncation=0.01)]
    assert len({drawer.identity for drawer in drawers}) == 3
    spreads = [
        drawer.draw([request(TEXTS[0], i) for i in range(16)]).images.std(0).mean()
        for drawer in drawers
    ]
    assert spreads[0] > spreads[1] > 10 * spreads[2]


def test_colours_value_ranges_and_other_sizes(tmp_path: Path) -> None:
    biggan(tmp_path, image_channels=3, image_size=[32, 48], value_range=[0, 1], attention=None)
    drawn = build(tmp_path, (3, 32, 48)).draw([request(TEXTS[0])]).images
    assert drawn.shape == (1, 3, 32, 48)
    with pytest.raises(WeightsError, match=r"shape \(3, 32, 48\).*\(1, 64, 64\).*resize=true"):
        build(tmp_path)
    scaled = build(tmp_path, resize=True).draw([request(TEXTS[0])]).images
    assert scaled.shape == (1, *SHAPE)
    grey = np.array([0.299, 0.587, 0.114]) @ drawn[0, :, :, 8:40].reshape(3, -1)
    assert scaled.mean() == pytest.approx(grey.mean(), abs=2)


@pytest.mark.parametrize("normalisation", ["instance", "none"])
def test_a_latent_that_is_not_cut_and_other_normalisations(
    normalisation: str, tmp_path: Path
) -> None:
    biggan(tmp_path, hierarchical=False, latent_size=7, normalisation=normalisation)
    images = build(tmp_path).draw([request(text, i) for text in TEXTS for i in (0, 1)]).images
    assert len({image.tobytes() for image in images}) == 4


def test_words_beyond_the_class_are_named(folder: Path) -> None:
    recipe = Recipe("class_gan", SHAPE, {"weights": str(folder), "vocabulary": "elpv"})
    generator = WithinMemory(recipe.build("cpu"), None, lambda n: None)
    assert undrawn(generator, TEXTS[0]) == ["mono"]
    assert undrawn(generator, "a DARK poly cell, with a clear defect") == ["dark", "poly"]
    assert undrawn(generator, "a cell with a crack") == []
    assert undrawn(generators.build("toy", SHAPE), TEXTS[0]) == ()


def test_classes_by_name_alone() -> None:
    names = ["tench, Tinca tinca", "tabby_cat", "hot dog", "collie"]
    plain = ClassWords(names, {}, None)
    assert plain.rows("a photograph of a Tinca Tinca") == [0]
    assert plain.rows("a tabby cat, with low contrast") == [1]
    assert plain.undrawn("a photograph of a tabby cat, with low contrast") == ["low", "contrast"]
    serves = {"tabby_cat": "pet", "collie": "pet", "hot dog": "food"}
    words = ClassWords(names, serves, None)
    assert words.rows("a picture of a pet") == [1, 3]
    assert words.rows("a picture of a pet, a collie") == [3]
    assert words.rows("food: a hot dog") == [2]
    with pytest.raises(SettingsError, match=r"'a tench' names no class .* draws: pet, food"):
        words.rows("a tench")


def test_classes_that_are_unknown_or_served_by_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"class of the generator 'crakc'.*'crack'"):
        build(folder, classes={"crakc": "defective"})
    with pytest.raises(SettingsError, match=r"class of the target 'defectiv'.*'defective'"):
        build(folder, classes={"crack": "defectiv"})
    with pytest.raises(
        SettingsError, match=r"No class .* serves functional of the vocabulary elpv"
    ):
        build(folder, classes={"crack": "defective"})
    with pytest.raises(SettingsError, match=r"Unknown vocabulary 'elpf'.*'elpv'"):
        build(folder, vocabulary="elpf")
    with pytest.raises(SettingsError, match="Did you mean 'truncation'"):
        build(folder, truncatoin=0.5)
    biggan(tmp_path, class_names=None, n_classes=3, serves=None)
    generator = build(tmp_path, vocabulary=None)
    drawn = generator.draw([request("a picture of a 2")]).images
    assert drawn.shape == (1, *SHAPE)
    with pytest.raises(SettingsError, match=r"names no class .* draws: 0, 1, 2"):
        generator.draw([request("a picture of a 2"), request("a cell")])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"latent_size": 13}, "cut into 3 equal pieces, but latent_size is 13"),
        ({"image_size": 66}, "must be a multiple of 4, not 66x66"),
        ({"attention": [16]}, "16 pixels: blocks give heights of 32, 64"),
        ({"class_names": None}, "either class_names or n_classes"),
        ({"serves": {"crck": "defective"}}, "Unknown class 'crck'"),
        ({"value_range": [0, 255]}, r"not \[-1, 1\] or \[0, 1\]"),
        ({"normalisation": "layer"}, "normalisation: Input should be"),
        ({"z_dim": 12}, "z_dim: Extra inputs"),
        (
            {"channels": [16, 16, 16]},
            r"blocks.1.0.bn2.stored_mean: .*\[8\].*\[16\]",
        ),
        ({"embedding_size": 7}, "size mismatch for"),
        ({"channels": [16, 16, 8, 8], "latent_size": 16}, "Missing key.*blocks"),
        ({"attention": []}, "Unexpected key.*blocks.0.1"),
    ],
)
def test_configurations_that_do_not_fit(
    folder: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    said = {k: v for k, v in {**CONFIG, **changes}.items() if v is not None}
    (tmp_path / "config.json").write_text(json.dumps(said))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=told):
        build(tmp_path)


class _Ran:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was opened",))


def test_partial_folders_pickles_and_programs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lacks config\.json, model\.safetensors"):
        build(Path("bundled:solar"))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(WeightsError, match=r"lacks model\.safetensors"):
        build(tmp_path)
    torch.save(_Ran(), tmp_path / "model.pth")
    with pytest.raises(WeightsError, match=r"model\.pth is a pickle or a program and never opened"):
        build(tmp_path)
    with pytest.raises(WeightsError, match=r"lacks config.*model\.pth is a pickle or a program"):
        build(tmp_path / "model.pth")
    # A program or a pickle that is named as if it were harmless.
    (tmp_path / "model.pth").rename(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="damaged"):
        build(tmp_path)
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "model.pt2")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.pt2").read_bytes())
    with pytest.raises(WeightsError, match="damaged"):
        build(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.pt2 is a pickle or a program"):
        build(tmp_path)
    cut = (folder / "model.safetensors").read_bytes()[:-100]
    (tmp_path / "model.safetensors").write_bytes(cut)
    with pytest.raises(WeightsError, match="damaged"):
        build(tmp_path)


def test_half_precision_weights_are_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    half = {k: v.half() for k, v in load_file(folder / "model.safetensors").items()}
    save_file(half, tmp_path / "model.safetensors")
    images, expected = (build(f).draw([request(TEXTS[0])]).images for f in (tmp_path, folder))
    assert np.abs(images.astype(int) - expected.astype(int)).max() <= 3


def test_labels_come_from_a_labeler(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = tiny_transformers.segformer("cell", "crack")
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    options = {"weights": str(folder), "vocabulary": "elpv"}
    more = {"segmentation": str(tmp_path)}
    recipe = Recipe("class_gan", SHAPE, options, "pseudo", ("cell", "crack"), more)
    drawn = recipe.build("cpu").draw([request(text) for text in TEXTS])
    assert drawn.labels["segmentation"].shape == (2, 64, 64)
    with pytest.raises(SettingsError, match=r"denoiser of an MTDM, .* 'class_gan'"):
        labelers.build("feature_decoder", build(folder), (), head="x")


def test_a_public_biggan_has_as_many_weights_as_published() -> None:
    """BigGAN at 128 pixels, as of the paper's table of architectures: 70.43 million weights."""
    config = BigGANConfig(
        latent_size=120,
        n_classes=1000,
        embedding_size=128,
        image_size=128,
        channels=(1536, 1536, 768, 384, 192, 96),
        attention=(64,),
    )
    with torch.device("meta"):
        n = sum(value.numel() for value in BigGAN(config).parameters())
    assert n / 1e6 == pytest.approx(70.43, abs=0.05)
