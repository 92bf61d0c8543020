"""The generator `joint` on tiny models of diffusers' real classes, built and saved here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from memory.errors import SettingsError, WeightsError
from tests.tools.tiny_diffusers import MODELS, SDXL, flux, lora, unet
from tests.tools.tiny_scenes import Scenes, stirred_joint, untrained_joint
from tools import generators
from tools.data.drawn import ImageRequest
from tools.data.samples import Samples
from tools.generators import Generator
from tools.generators.joint import JointGenerator
from tools.generators.joint.folder import ADAPTER_FILE, CARD_FILE, LABELS_FILE, save_joint, widen
from tools.generators.joint.unet import JointUNet
from tools.generators.text2image.diffusion_model import load_model
from tools.generators.text2image.model_options import ModelOptions
from tools.pretraining.finetuning import lora_state

# diffusers 0.42 has not followed numpy 2 everywhere.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCENES = Scenes()
SHAPE = SCENES.image_shape
SIZE = (16, 24)
TEXTS = ("a street by night", "a busy street")
REQUESTS = [
    ImageRequest(TEXTS[i % 2], f"p{i % 2}", i, 0, guidance=[1.0, 4.0, 4.0][i % 3]) for i in range(5)
]


@pytest.fixture(scope="module")
def joint(sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    untrained_joint(sd, folder, SCENES, SIZE)
    return folder


def build(sd: Path, joint: Path, **options: object) -> Generator:
    more = {"steps": 3, **options}
    return generators.build("joint", SHAPE, "cpu", weights=str(sd), joint=str(joint), **more)


def test_what_was_saved_draws_as_before(sd: Path, tmp_path: Path) -> None:
    model, card = stirred_joint(sd, SCENES, SIZE)
    before = JointGenerator(model, card, "").draw(REQUESTS)
    save_joint(tmp_path, card, model.pipeline, lora_state(model.pipeline.unet))
    after = build(sd, tmp_path).draw(REQUESTS)
    assert (before.images == after.images).all()
    assert set(after.labels) == {"segmentation", "depth", "normals"}
    for kind, values in before.labels.items():
        assert (values == after.labels[kind]).all()
        assert (before.confidence[kind] == after.confidence[kind]).all()
    small = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert small < 0.6 * sum(path.stat().st_size for path in sd.rglob("*.safetensors"))


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_same_images_and_labels_for_any_batch_size(kind: str, tmp_path: Path) -> None:
    MODELS[kind](tmp_path / "model")
    untrained_joint(tmp_path / "model", tmp_path / "joint", SCENES, SIZE)
    generator = build(tmp_path / "model", tmp_path / "joint")
    together = generator.draw(REQUESTS)
    n = len(REQUESTS)
    Samples(together.images, np.zeros(n, np.int64), [{}] * n, list("abcde"), labels=together.labels)
    for i, request in enumerate(REQUESTS):
        alone = generator.draw([request])
        assert np.abs(alone.images[0].astype(int) - together.images[i].astype(int)).max() <= 1
        same = alone.labels["segmentation"][0] == together.labels["segmentation"][i]
        assert same.mean() > 0.99
        assert alone.labels["depth"][0] == pytest.approx(together.labels["depth"][i], rel=1e-2)
    assert (together.labels["depth"][0] != together.labels["depth"][2]).any()


def test_before_it_learns_it_draws_as_the_model_does(sd: Path, tmp_path: Path) -> None:
    model, card = stirred_joint(sd, SCENES, SIZE)
    with torch.no_grad():
        for name, parameter in model.pipeline.unet.named_parameters():
            if "lora_B" in name or ".labels." in name:
                parameter.zero_()
    save_joint(tmp_path, card, model.pipeline, lora_state(model.pipeline.unet))
    drawn = build(sd, tmp_path).draw(REQUESTS)
    plain = generators.build("text2image", SHAPE, "cpu", weights=str(sd), steps=3, size=SIZE)
    assert np.abs(drawn.images.astype(int) - plain.draw(REQUESTS).images.astype(int)).max() <= 1
    # The middle of the channels, everywhere.
    assert np.ptp(drawn.labels["depth"]) < 1e-3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_samplers_are_told_of_labels_what_they_expect(prediction: str) -> None:
    torch.manual_seed(0)
    scheduler = DDIMScheduler(prediction_type=prediction, clip_sample=False)
    network = JointUNet.widened(unet(16), 6, scheduler)
    for parameter in network.label_weights.values():
        torch.nn.init.normal_(parameter, std=0.3)
    x, states = torch.randn(2, 10, 8, 8), torch.randn(2, 5, 16)
    scheduler.set_timesteps(10)
    for t in scheduler.timesteps[[0, 4, 9]]:
        with torch.no_grad():
            said = network(x, t, states).sample
        expected = scheduler.step(said, t, x).pred_original_sample
        assert torch.allclose(expected[:, 4:], network.clean_labels, atol=1e-3)
        between = network.signal(torch.tensor([float(t) + 0.5])).item()
        alphas = scheduler.alphas_cumprod
        assert alphas[t + 1] < between < alphas[t]


def test_settings_change_identity_and_drawings(sd: Path, joint: Path, tmp_path: Path) -> None:
    lora(tmp_path / "night")
    drawers = [
        build(sd, joint),
        build(sd, joint, steps=2),
        build(sd, joint, scheduler="DPMSolverMultistepScheduler"),
        build(sd, joint, scheduler="EulerDiscreteScheduler"),
        build(sd, joint, adapters={str(tmp_path / "night"): 1.0}),
    ]
    assert len({drawer.identity for drawer in drawers}) == len(drawers)
    drawn = [drawer.draw(REQUESTS[:1]) for drawer in drawers]
    assert len({d.images.tobytes() for d in drawn}) == len(drawers)
    assert len({d.labels["depth"].tobytes() for d in drawn}) == len(drawers)
    assert build(sd, joint).identity == drawers[0].identity


def test_a_missing_partial_or_damaged_folder(sd: Path, joint: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"needs generator\.options\.joint"):
        generators.build("joint", SHAPE, weights=str(sd))
    with pytest.raises(WeightsError, match=f"lacks {CARD_FILE}, {ADAPTER_FILE}, {LABELS_FILE}"):
        build(sd, tmp_path / "none")
    partial = shutil.copytree(joint, tmp_path / "partial")
    (partial / LABELS_FILE).rename(partial / "joint_labels.bin")
    with pytest.raises(WeightsError, match=f"lacks {LABELS_FILE}. joint_labels.bin is a pickle"):
        build(sd, partial)
    for name in (LABELS_FILE, ADAPTER_FILE):
        cut = shutil.copytree(joint, tmp_path / f"cut {name}")
        (cut / name).write_bytes((cut / name).read_bytes()[:-100])
        with pytest.raises(WeightsError, match=f"{name} is damaged"):
            build(sd, cut)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("rank", "two", "damaged or of another version: rank"),
        ("image_shape", [3, 32, 48], r"draws images of shape \(3, 32, 48\), but the target's"),
        ("model_sha256", "0" * 64, "trained on .*SHA-256 0000000000000000.* another model"),
        ("kinds", ["flow"], "labels of the kind 'flow'. Known are: segmentation, depth, normals"),
        ("patch", 1, "holds tensors of the shapes .* expected"),
    ],
)
def test_a_card_that_does_not_fit(
    key: str, value: object, told: str, sd: Path, joint: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(joint, tmp_path / "other")
    card = json.loads((other / CARD_FILE).read_text())
    inner = {"kinds": card["labels"]["codes"], "patch": card["labels"]}.get(key, card)
    inner[key] = value
    (other / CARD_FILE).write_text(json.dumps(card))
    with pytest.raises(WeightsError, match=told):
        build(sd, other)


def test_pictures_of_another_size_are_refused(sd: Path, joint: Path) -> None:
    with pytest.raises(SettingsError, match=r"size is \(32, 48\), but .* draws pictures of"):
        build(sd, joint, size=(32, 48))


def test_models_without_a_plain_unet_are_refused(tmp_path: Path) -> None:
    flux(tmp_path / "flux")
    pipeline = load_model(ModelOptions(weights=str(tmp_path / "flux")), "cpu").pipeline
    with pytest.raises(WeightsError, match="needs a UNet and a VAE, but the model is a FluxPipe"):
        widen(pipeline, 4)
    inpainting = unet(32, in_channels=9, **SDXL)
    with pytest.raises(WeightsError, match="takes 9 channels and gives 4"):
        JointUNet.widened(inpainting, 4, DDIMScheduler())
