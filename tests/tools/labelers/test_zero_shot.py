"""The labeler `zero_shot` on a tiny CLIPSeg, built and saved here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from benchmarks.architectures import tokenizer
from memory.errors import SettingsError, WeightsError
from tests.tools.tiny_diffusers import text_config
from tools import labelers
from tools.compute.worker import Recipe
from tools.data.drawn import ImageRequest
from tools.data.samples import VOID, Images
from tools.generators.toy import ToyGenerator
from tools.labelers import Labeler

SHAPE = (3, 16, 24)
CLASSES = ("road", "sky", "tree")
PROCESSOR = {"size": {"height": 48, "width": 48}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the public ones, made for smaller pictures (32 pixels) than it is shown (48)."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clipseg")
    text = text_config().to_dict()
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"]
    keys += ["num_attention_heads", "bos_token_id", "eos_token_id", "pad_token_id"]
    config = CLIPSegConfig(
        text_config={key: text[key] for key in keys},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=16,
        extract_layers=[0, 2],
        reduce_dim=16,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    model = CLIPSegForImageSegmentation(config)
    # Untrained, it says about the same of every phrase.
    torch.nn.init.normal_(model.decoder.film_mul.weight)
    torch.nn.init.normal_(model.decoder.film_add.weight)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture
def copy(clipseg: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clipseg, tmp_path / "copy"))


def make(folder: Path, classes: tuple[str, ...] = CLASSES, **options: Any) -> Labeler:
    given = {"segmentation": str(folder), **options}
    return labelers.build("zero_shot", ToyGenerator(SHAPE, 1), classes, **given)


def pictures(n: int, n_channels: int = 3) -> Images:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (n, n_channels, *SHAPE[1:]), dtype=np.uint8)


def test_the_most_probable_phrase_is_the_class_as_the_model_itself_has_it(clipseg: Path) -> None:
    images = pictures(2)
    labels, confidence = make(clipseg, threshold=0).label(images)
    plain = CLIPSegForImageSegmentation.from_pretrained(clipseg).eval()
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(images).float() / 255, (48, 48), mode="bilinear", antialias=True
    )
    words = tokenizer()(list(CLASSES), padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = torch.stack(
            [plain(pixel_values=x.expand(3, -1, -1, -1), **words).logits for x in pixels * 4 - 2]
        )
    assert logits.shape == (2, 3, 48, 48)
    sized = torch.nn.functional.interpolate(logits, SHAPE[1:], mode="bilinear", align_corners=False)
    sure, ids = sized.sigmoid().max(1)
    assert len(ids.unique()) > 1
    assert confidence["segmentation"] == pytest.approx(sure.numpy(), abs=1e-4)
    assert (labels["segmentation"] == ids.numpy()).mean() > 0.99


def test_a_pixel_of_no_probable_class_is_unknown(clipseg: Path) -> None:
    images = pictures(1)
    sure = make(clipseg, threshold=0).label(images)[1]["segmentation"]
    middle = float(np.median(sure))
    ids = make(clipseg, threshold=middle).label(images)[0]["segmentation"]
    assert ((ids == VOID) == (sure < middle)).mean() > 0.99
    assert 0.2 < (ids == VOID).mean() < 0.8
    none = make(clipseg, threshold=1).label(images)[0]["segmentation"]
    assert (none == VOID).all()


def test_labels_do_not_depend_on_other_images(clipseg: Path) -> None:
    images = pictures(9)
    labeler = make(clipseg)
    everything, sure = labeler.label(images)
    alone, sure_alone = labeler.label(images[8:])
    assert (alone["segmentation"][0] == everything["segmentation"][8]).mean() > 0.99
    assert sure_alone["segmentation"][0] == pytest.approx(sure["segmentation"][8], abs=1e-5)
    nothing, _ = labeler.label(images[:0])
    assert nothing["segmentation"].shape == (0, *SHAPE[1:])


def test_phrases_stand_for_classes(clipseg: Path) -> None:
    images = pictures(1)
    labeler = make(clipseg, threshold=0)
    swapped = make(clipseg, phrases={"road": "sky", "sky": "road"}, threshold=0)
    assert swapped.identity != labeler.identity
    assert make(clipseg, threshold=0).identity == labeler.identity
    turned = np.array([1, 0, 2])[labeler.label(images)[0]["segmentation"]]
    assert (swapped.label(images)[0]["segmentation"] == turned).mean() > 0.99


def test_gray_images_are_seen_as_coloured_ones(clipseg: Path) -> None:
    gray = pictures(1, 1)
    labeler = make(clipseg)
    found, _ = labeler.label(gray)
    same, _ = labeler.label(gray.repeat(3, 1))
    assert np.array_equal(found["segmentation"], same["segmentation"])


def test_labels_come_with_the_images_of_a_generator(clipseg: Path) -> None:
    recipe = Recipe("toy", SHAPE, {}, "zero_shot", CLASSES, {"segmentation": str(clipseg)})
    drawn = recipe.build("cpu").draw([ImageRequest("a cell", "p", i, 0) for i in range(2)])
    assert drawn.labels["segmentation"].shape == (2, *SHAPE[1:])
    assert drawn.confidence["segmentation"].dtype == np.float32


def test_a_processor_in_the_newer_form_is_read(clipseg: Path, copy: Path) -> None:
    (copy / "preprocessor_config.json").unlink()
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSOR}))
    images = pictures(1)
    own, newer = (make(folder).label(images)[1]["segmentation"] for folder in (clipseg, copy))
    assert np.array_equal(own, newer)


@pytest.mark.parametrize(
    ("classes", "options", "match"),
    [
        (CLASSES, {"segmentation": None}, r"needs a model.*segmentation: FOLDER"),
        (CLASSES, {"mapping": {}}, r"key of labeler\.options 'mapping'.*phrases"),
        (CLASSES, {"threshold": 2}, r"labeler\.options\.threshold cannot be 2"),
        (CLASSES, {"phrases": {"rode": "a road"}}, "phrases: Unknown class .*'rode'.*'road'"),
        (CLASSES, {"phrases": {"road": " "}}, "class 'road' has no text.*phrases"),
        (CLASSES, {"phrases": {"road": "sky"}}, "'road' and 'sky' .*'sky'"),
        (CLASSES, {"phrases": {"road": "r" * 90}}, "has 92 tokens.* 77"),
        ((), {}, "no classes of pixels"),
    ],
)
def test_options_that_cannot_be_used_are_explained(
    clipseg: Path, classes: tuple[str, ...], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(SettingsError, match=match):
        make(clipseg, classes, **options)


@pytest.mark.parametrize(
    ("removed", "match"),
    [
        ("config.json", r"has no config\.json"),
        ("model.safetensors", "no safetensors file"),
        ("preprocessor_config.json", r"has no preprocessor_config\.json"),
        ("tokenizer.json", "lacks its tokenizer"),
    ],
)
def test_a_partial_folder_is_refused(copy: Path, removed: str, match: str) -> None:
    (copy / removed).unlink()
    with pytest.raises(WeightsError, match=match):
        make(copy)


def test_damaged_foreign_and_pickled_models_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    for name, content, match in (
        ("preprocessor_config.json", "{}", "lacks size"),
        ("tokenizer.json", "{}", "tokenizer in .* is damaged"),
        ("config.json", '{"model_type": "segformer"}', "'segformer'.*needs 'clipseg'"),
    ):
        kept = (copy / name).read_text()
        (copy / name).write_text(content)
        with pytest.raises(WeightsError, match=match):
            make(copy)
        (copy / name).write_text(kept)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="a CLIPSegForImageSegmentation"):
        make(copy)
    weights.rename(copy / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="is a pickle"):
        make(copy)


def test_a_model_without_its_decoder_or_with_another_tokenizer_is_refused(copy: Path) -> None:
    whole = CLIPSegForImageSegmentation.from_pretrained(copy)
    whole.clip.save_pretrained(copy)
    with pytest.raises(WeightsError, match=r"lacks \d+ weights"):
        make(copy)
    whole.clip.text_model.embeddings.token_embedding = torch.nn.Embedding(20, 16)
    whole.config.text_config.vocab_size = 20
    whole.save_pretrained(copy)
    with pytest.raises(WeightsError, match=r"tokenizer in .* is of another model"):
        make(copy)
