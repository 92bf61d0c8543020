from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from memory.errors import WeightsError
from tools.generators.mtdm import (
    MTDMGenerator,
    MTDMPipeline,
    build,
    load_pipeline,
    new_pipeline,
    seeded_noise,
)


@pytest.fixture(scope="module")
def pipeline() -> MTDMPipeline:
    torch.manual_seed(0)
    made = new_pipeline(1, 64, 4, (16, 32), 0.6, 0.2)
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
    assert torch.allclose(pipeline.unfold(folded), images, atol=1e-6)


def test_saved_pipeline_draws_the_same(pipeline: MTDMPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    again = load_pipeline(tmp_path)
    prompts = ["a dark cell", "a bright cell"]
    assert (again(prompts, noise(2), 3) == pipeline(prompts, noise(2), 3)).all()


def test_text_and_guidance_have_an_effect(pipeline: MTDMPipeline) -> None:
    def draw(text: str, guidance: float) -> torch.Tensor:
        return torch.from_numpy(pipeline([text], noise(1), 3, guidance).astype(np.int64))

    assert not torch.equal(draw("a dark cell", 1), draw("a bright cell", 1))
    assert not torch.equal(draw("a dark cell", 1), draw("a dark cell", 3))


def test_guidance_of_one_is_no_guidance(pipeline: MTDMPipeline) -> None:
    plain = pipeline(["a dark cell"], noise(1), 3, 1.0)
    outside = pipeline(["a dark cell"], noise(1), 3, 5.0, (1.0, 1.0))
    assert (plain == outside).all()


def test_identity_changes_with_weights_and_sampling(pipeline: MTDMPipeline) -> None:
    other = new_pipeline(1, 16, 4, (16, 32), 0.5, 0.25)
    drawers = [MTDMGenerator(pipeline), MTDMGenerator(pipeline, 3), MTDMGenerator(other)]
    assert len({drawer.identity for drawer in drawers}) == 3


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
        generator.pipeline([f"a {word} monocrystalline functional solar cell"] * 4, noise(4))
        for word in ("dark", "bright")
    )
    assert float(bright.mean()) - float(dark.mean()) > 30
