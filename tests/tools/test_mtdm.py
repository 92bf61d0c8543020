from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from memory.errors import SettingsError, WeightsError
from tools.generators import ImageRequest
from tools.generators.mtdm import (
    MTDMGenerator,
    MTDMPipeline,
    build,
    load_pipeline,
    new_detail,
    new_pipeline,
    seeded_noise,
)
from tools.label_codes import LabelCodes
from tools.samples import Samples


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
    drawers = [MTDMGenerator(pipeline), MTDMGenerator(pipeline, 3), MTDMGenerator(other)]
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


def test_detail_network_takes_over_where_little_noise_is_left(
    joint: MTDMPipeline, tmp_path: Path
) -> None:
    joint.save_pretrained(tmp_path / "plain")
    made = load_pipeline(tmp_path / "plain")
    torch.manual_seed(1)
    made.register_modules(detail=new_detail(made, 2, (16, 32)))
    made.register_to_config(detail_below=0.6, label_steps=2)
    made.save_pretrained(tmp_path / "both")
    request = [ImageRequest("a street", "p", 0, 0)]
    shape = (3, 32, 48)
    calls: list[float] = []
    both = build(shape, weights=str(tmp_path / "both"), steps=10)
    both.pipeline.detail.register_forward_pre_hook(lambda _, given: calls.append(float(given[1])))
    drawn = both.draw(request)
    # Six of ten steps, then labels from all noise on, beside the finished picture.
    assert [t < 600 for t in calls] == [True] * 6 + [False, True]
    assert calls[-2] == 999
    unread = build(shape, weights=str(tmp_path / "both"), steps=10, label_steps=0)
    assert (unread.draw(request).images == drawn.images).all()
    assert (unread.draw(request).labels["depth"] != drawn.labels["depth"]).any()
    plain = build(shape, weights=str(tmp_path / "plain"), steps=10)
    assert len({g.identity for g in (both, unread, plain)}) == 3
    with pytest.raises(SettingsError, match=r"multiples of 16 pixels, not 48x40"):
        new_detail(new_pipeline((3, 40, 48), 4, (16, 32), 0.5, 0.25), 4, (16, 32, 48))


def test_noise_that_the_network_cannot_hold_is_taken_away_by_predicting_the_clean_image() -> None:
    torch.manual_seed(0)
    spreads = {}
    for prediction in ("velocity", "clean"):
        made = new_pipeline((3, 32, 48), 4, (16, 32), 0.5, 0.25, prediction=prediction)
        made.set_progress_bar_config(disable=True)
        # A network that says nothing: 0 of the velocity leaves the noise, 0 of the image grey.
        torch.nn.init.zeros_(made.unet.conv_out.weight)
        torch.nn.init.zeros_(made.unet.conv_out.bias)
        noise = torch.stack([seeded_noise(0, "p", 0, made.noise_shape)])
        spreads[prediction] = float(made(["a street"], noise, 3).images.std())
    assert spreads["clean"] < 1 < spreads["velocity"]


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
