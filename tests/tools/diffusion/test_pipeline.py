from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memory.errors import SettingsError, WeightsError
from tools.data.drawn import ImageRequest
from tools.data.samples import Samples
from tools.diffusion.label_codes import LabelCodes
from tools.diffusion.pipeline import MTDMPipeline
from tools.diffusion.sampler import ddim_step, seeded_noise
from tools.diffusion.weights import load_pipeline, new_pipeline
from tools.generators.mtdm import MTDMGenerator, MTDMOptions, build


@pytest.fixture(scope="module")
def pipeline() -> MTDMPipeline:
    torch.manual_seed(0)
    made = new_pipeline((1, 64, 64), 4, (16, 32), 0.6, 0.2)
    made.set_progress_bar_config(disable=True)
    return made


def noise(n: int) -> torch.Tensor:
    return torch.stack([seeded_noise(0, "p", i, (1, 64, 64)) for i in range(n)])


def test_noise_is_standard_normal_and_a_function_of_its_key() -> None:
    many = noise(50)
    assert abs(float(many.mean())) < 0.01
    assert abs(float(many.std()) - 1) < 0.01
    assert torch.equal(noise(2)[1], noise(3)[1])
    assert not torch.equal(many[0], many[1])


def test_fold_and_unfold_are_inverse(pipeline: MTDMPipeline) -> None:
    images = torch.rand(2, 1, 64, 64)
    folded = pipeline.fold(images)
    assert folded.shape == (2, 16, 16, 16)
    pixels, labels = pipeline.unfold(folded)
    assert torch.allclose(pixels, images, atol=1e-6)
    assert labels.shape[1] == 0


def test_saved_pipeline_draws_the_same(pipeline: MTDMPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    again = load_pipeline(tmp_path)
    prompts = ["a dark cell", "a bright cell"]
    assert (again(prompts, noise(2), 3).images == pipeline(prompts, noise(2), 3).images).all()


def test_text_and_guidance_have_an_effect(pipeline: MTDMPipeline) -> None:
    def draw(text: str, guidance: float) -> torch.Tensor:
        return torch.from_numpy(pipeline([text], noise(1), 3, guidance).images.astype(int))

    assert not torch.equal(draw("a dark cell", 1), draw("a bright cell", 1))
    assert not torch.equal(draw("a dark cell", 1), draw("a dark cell", 3))


def test_guidance_of_one_is_no_guidance(pipeline: MTDMPipeline) -> None:
    plain = pipeline(["a dark cell"], noise(1), 3, 1.0)
    outside = pipeline(["a dark cell"], noise(1), 3, 5.0, (1.0, 1.0))
    assert (plain.images == outside.images).all()


def test_identity_changes_with_weights_and_sampling(pipeline: MTDMPipeline) -> None:
    other = new_pipeline((1, 16, 16), 4, (16, 32), 0.5, 0.25)
    drawers = [
        MTDMGenerator(pipeline),
        MTDMGenerator(pipeline, MTDMOptions(steps=3)),
        MTDMGenerator(other),
    ]
    assert len({drawer.identity for drawer in drawers}) == 3


@pytest.fixture(scope="module")
def joint() -> MTDMPipeline:
    codes = LabelCodes(
        kinds=("segmentation", "depth", "normals"),
        class_names=("road", "sky", "car"),
        mean=(0,) * 7,
        std=(1,) * 7,
        depth_m=(1, 100),
    )
    torch.manual_seed(0)
    made = new_pipeline((3, 32, 48), 4, (16, 32), 0.5, 0.25, codes)
    made.set_progress_bar_config(disable=True)
    return made


def test_labels_are_drawn_with_the_image_and_survive_saving(
    joint: MTDMPipeline, tmp_path: Path
) -> None:
    joint.save_pretrained(tmp_path)
    generator = build((3, 32, 48), weights=str(tmp_path), steps=2)
    requests = [ImageRequest("a street", "p", i, 0, guidance=1.0 + i % 2) for i in range(3)]
    drawn = generator.draw(requests)
    # Raises DataError for labels that do not fit.
    Samples(drawn.images, np.zeros(3, int), [{}] * 3, ["a", "b", "c"], labels=drawn.labels)
    assert drawn.labels["segmentation"].max() < 3
    assert 1 <= drawn.labels["depth"].min() <= drawn.labels["depth"].max() <= 100
    assert np.linalg.norm(drawn.labels["normals"], axis=1) == pytest.approx(1, abs=1e-4)
    for kind, values in drawn.confidence.items():
        assert values.shape == (3, 32, 48), kind
        assert 0 <= values.min() <= values.max() <= 1
    alone = generator.draw(requests[1:2])
    assert alone.labels["depth"][0] == pytest.approx(drawn.labels["depth"][1], rel=1e-3)


def test_noise_that_the_network_cannot_hold_is_taken_away_by_predicting_the_clean_image() -> None:
    torch.manual_seed(0)
    spreads = {}
    for prediction in ("velocity", "clean", "residual"):
        power = [[1.0] * 24 + [0.01] * 24] * 2 if prediction == "residual" else []
        made = new_pipeline((3, 32, 48), 4, (16, 32), 0.5, 0.25, None, prediction, power=power)
        made.set_progress_bar_config(disable=True)
        # A network that says nothing: 0 of the velocity leaves the noise, 0 of the image grey, 0 of
        # the remainder noise as strong as the channels are.
        torch.nn.init.zeros_(made.unet.conv_out.weight)
        torch.nn.init.zeros_(made.unet.conv_out.bias)
        noise = torch.stack([seeded_noise(0, "p", 0, made.noise_shape)])
        spreads[prediction] = float(made(["a street"], noise, 3).images.std())
    assert spreads["clean"] < 1
    assert 1 < spreads["residual"] < 0.8 * spreads["velocity"]


def test_labels_lead(joint: MTDMPipeline, tmp_path: Path) -> None:
    joint.save_pretrained(tmp_path)
    made = load_pipeline(tmp_path)
    t = torch.tensor([0, 300, 400, 600, 999])
    assert all((level == made.scheduler.alphas_cumprod[t]).all() for level in made.levels(t))
    made.register_to_config(label_noise_offset=0.4)
    of_image, of_labels = made.levels(t)
    alphas = made.scheduler.alphas_cumprod
    assert of_labels.tolist() == alphas[[0, 0, 1, 334, 999]].tolist()
    assert of_image.tolist() == alphas[[0, 500, 667, 999, 999]].tolist()
    # What is drawn of the labels does not change any more while the image is denoised.
    shape = (1, made.unet.config.in_channels, 8, 12)
    x, clean = torch.randn(shape), torch.randn(shape)
    now, following = (made.per_channel(made.levels(torch.tensor([time]))) for time in (300, 200))
    later = ddim_step(x, clean, now, following, torch.ones(1))
    assert torch.allclose(later[:, 48:], x[:, 48:], atol=1e-4)
    assert not torch.allclose(later[:, :48], x[:, :48], atol=0.1)


def test_the_remainder_is_what_a_linear_denoiser_leaves() -> None:
    """Of values that are Gaussian and independent nothing remains."""
    power = [4.0] * 8 + [0.01] * 8
    # As nothing is told by what is around, the power and what is left of it are the same.
    both = [power, power]
    made = new_pipeline((1, 32, 32), 4, (16, 32), 0.5, 0.25, None, "residual", power=both)
    torch.nn.init.zeros_(made.unet.conv_out.weight)
    torch.nn.init.zeros_(made.unet.conv_out.bias)
    torch.manual_seed(0)
    spread = torch.tensor(power).sqrt().view(1, -1, 1, 1)
    clean = spread * torch.randn(8, 16, 8, 8)
    t = torch.full((8,), 500)
    levels = made.levels(t)
    noisy = made.add_noise(clean, torch.randn(clean.shape), levels)
    with torch.inference_mode():
        said = made.predict(noisy, t, torch.zeros(8, 2, 384), torch.ones(8, 2).long())
    a = levels[0][0]
    for part in (slice(0, 8), slice(8, 16)):
        p = power[part.start]
        least = p * (1 - a) / (a * p + 1 - a)
        error = ((said - clean)[:, part] ** 2).mean()
        assert float(error / least) == pytest.approx(1, abs=0.05)


def test_sizes_that_cannot_be_folded_are_refused() -> None:
    with pytest.raises(SettingsError, match="multiples of 8 pixels, not 90x64"):
        new_pipeline((3, 64, 90), 4, (16, 32), 0.5, 0.25)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"lacks model_index\.json.*shaping pretrain"):
        load_pipeline(tmp_path)


def test_damaged_weights_are_named(pipeline: MTDMPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        load_pipeline(tmp_path)
    shutil.rmtree(tmp_path / "unet")
    with pytest.raises(WeightsError, match=r"lacks unet/config\.json"):
        load_pipeline(tmp_path)


def test_pipeline_of_another_shape_is_refused(pipeline: MTDMPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"\(1, 64, 64\).*\(3, 32, 32\)"):
        build((3, 32, 32), weights=str(tmp_path))


def test_bundled_weights_fit_their_limit_and_draw_cells() -> None:
    generator = build((1, 64, 64), weights="bundled:solar")
    folder = Path(generator.pipeline.config._name_or_path)
    assert sum(p.stat().st_size for p in folder.rglob("*")) < 12 * 2**20
    dark, bright = (
        generator.pipeline([f"a {word} monocrystalline functional solar cell"] * 4, noise(4)).images
        for word in ("dark", "bright")
    )
    assert float(bright.mean()) - float(dark.mean()) > 30


def test_looking_at_a_photograph_gives_it_the_noise_of_the_step(
    joint: MTDMPipeline, tmp_path: Path
) -> None:
    joint.save_pretrained(tmp_path)
    made = load_pipeline(tmp_path)
    made.register_to_config(label_noise_offset=0.4)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    made.unet.register_forward_pre_hook(lambda _, given: seen.append(given[:2]))
    pixels = torch.rand(2, 3, 32, 48)
    noise = torch.randn(1, *made.noise_shape)
    with torch.inference_mode():
        made.extract_features(pixels, noise, 250)
    x, t = seen[0]
    assert t.tolist() == [150, 150]
    a = made.scheduler.alphas_cumprod[250]
    folded = torch.nn.functional.pixel_unshuffle(noise, 4)
    expected = a.sqrt() * made.fold(pixels) + (1 - a).sqrt() * folded[:, :48]
    assert torch.allclose(x[:, :48], expected, atol=1e-5)
    assert torch.allclose(x[:, 48:], folded[:, 48:].expand(2, -1, -1, -1))


def test_names_of_earlier_versions_are_still_read(joint: MTDMPipeline, tmp_path: Path) -> None:
    joint.register_to_config(s_noise=[0.5, 1], timestep_rho=1.5, label_noise_offset=0.4)
    joint.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for name, earlier in (
        ("s_noise", "noise_kept"),
        ("timestep_rho", "spacing"),
        ("label_noise_offset", "label_lead"),
    ):
        index[earlier] = index.pop(name)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    config = load_pipeline(tmp_path).config
    joint.register_to_config(s_noise=[1.0, 1.0], timestep_rho=1.0, label_noise_offset=0.0)
    assert (config.s_noise, config.timestep_rho, config.label_noise_offset) == ([0.5, 1], 1.5, 0.4)
    shape = (3, 32, 48)
    given: dict[str, Any] = {"weights": str(tmp_path)}
    now, before = (
        build(shape, **given, s_noise=[0.7, 1]),
        build(shape, **given, noise_kept=[0.7, 1]),
    )
    assert now.identity == before.identity


def test_steps_that_keep_less_noise_draw_calmer_pictures(
    joint: MTDMPipeline, tmp_path: Path
) -> None:
    joint.save_pretrained(tmp_path)
    request = [ImageRequest("a street", "p", 0, 0)]
    shape = (3, 32, 48)

    def drawer(s_noise: Sequence[float] | None) -> MTDMGenerator:
        return build(shape, weights=str(tmp_path), steps=6, s_noise=s_noise)

    plain, all_kept, calm = drawer(None), drawer([1, 1]), drawer([0.5, 1])
    assert plain.identity == all_kept.identity != calm.identity
    assert (plain.draw(request).images == all_kept.draw(request).images).all()
    assert calm.draw(request).images.std() < plain.draw(request).images.std()
    made = load_pipeline(tmp_path)
    made.register_to_config(s_noise=[0.5, 1.0])
    made.save_pretrained(tmp_path / "calm")
    as_weights_say = build(shape, weights=str(tmp_path / "calm"), steps=6)
    assert as_weights_say.identity == calm.identity
    with pytest.raises(SettingsError, match=r"generator\.options\.s_noise"):
        drawer([2])


class OneTone(MTDMPipeline):
    """Knows exactly what noisy pictures of a single tone show, the tone being standard normal."""

    def denoise(self, x: torch.Tensor, t: torch.Tensor, *_: object) -> torch.Tensor:
        a = self.levels(t.reshape(-1))[0][0]
        n_pixels = x[0].numel()
        tone = a.sqrt() * x.sum((1, 2, 3), keepdim=True) / (a * n_pixels + 1 - a)
        return tone.expand_as(x)


def test_steps_that_are_closer_in_much_noise_draw_layouts_as_varied_as_they_are(
    pipeline: MTDMPipeline, tmp_path: Path
) -> None:
    trailing = pipeline.scheduler
    for steps in (5, 8, 16):
        trailing.set_timesteps(steps)
        assert pipeline.times(steps).tolist() == trailing.timesteps.tolist()
    exact = OneTone(pipeline.unet, pipeline.scheduler, 1, 64, 4, mean=0.5, std=0.01)
    exact.set_progress_bar_config(disable=True)

    def spread(spacing: float) -> float:
        exact.register_to_config(timestep_rho=spacing)
        tones = exact([""] * 64, noise(64), 16).images.mean((1, 2, 3)) / 255
        return float(tones.std() / 0.01)

    # 1 would be right; the first of the trailing steps takes away four fifths of the variation.
    assert spread(1) < 0.25 < 0.6 < spread(2) < 1
    assert exact.times(8).tolist() == [999, 983, 937, 858, 749, 608, 437, 233]

    plain = MTDMGenerator(pipeline).identity
    pipeline.save_pretrained(tmp_path)
    made = load_pipeline(tmp_path)
    made.register_to_config(timestep_rho=1.5)
    made.save_pretrained(tmp_path)
    assert MTDMGenerator(load_pipeline(tmp_path)).identity != plain
