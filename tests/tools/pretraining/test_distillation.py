from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from agent.config.stored import read_stored
from tests.tools.pretraining.test_pretrain import StreetTarget, TinyTarget
from tools.data.drawn import ImageRequest
from tools.diffusion.pipeline import MTDMPipeline, encode_prompts
from tools.diffusion.sampler import seeded_noise
from tools.diffusion.weights import load_pipeline
from tools.generators.mtdm import MTDMGenerator, MTDMOptions
from tools.pretraining.distillation import SHARD, Balance, Bank, distillation_loss
from tools.pretraining.pretrain import pretrain
from tools.settings import DistillationSettings, PretrainSettings
from tools.targets import Target

TEACHER = PretrainSettings(
    steps=2,
    batch_size=2,
    channels=(16, 32),
    save_every=2,
    warmup_steps=1,
    label_noise_offset=0.4,
    s_noise=(0.9, 0.8),
)


@pytest.fixture(scope="module", params=[TinyTarget, StreetTarget])
def taught(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Target, Path]:
    folder, target = tmp_path_factory.mktemp("teacher"), request.param()
    pretrain(target, TEACHER, folder)
    return target, folder / "pipeline"


def distilling(teacher: Path, steps: int = 2, of_teacher: int = 4) -> PretrainSettings:
    chosen = DistillationSettings(
        teacher=str(teacher), steps=steps, teacher_steps=of_teacher, n_images=SHARD
    )
    return TEACHER.model_copy(update={"steps": 3, "save_every": 3, "distillation": chosen})


def encode(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    return encode_prompts(texts)


def test_a_student_that_does_as_its_teacher_has_no_loss(
    taught: tuple[Target, Path], tmp_path: Path
) -> None:
    target, folder = taught
    settings = distilling(folder, steps=4, of_teacher=4)
    teacher = load_pipeline(folder)
    teacher.register_to_config(guidance=1.0)
    bank = Bank(tmp_path, teacher, target, settings.distillation, dropout=0.2)
    assert bank.states.shape[:2] == (5, SHARD)
    with torch.no_grad():
        same = distillation_loss(teacher, bank, encode, settings, 0)
        bank.states[1:] += 0.1
        other = distillation_loss(teacher, bank, encode, settings, 0)
    assert same < 1e-4 < other


@pytest.mark.parametrize("taught", [StreetTarget], indirect=True)
def test_patches_weigh_by_the_classes_that_the_teacher_drew(
    taught: tuple[Target, Path], tmp_path: Path
) -> None:
    target, folder = taught
    settings, teacher = distilling(folder), load_pipeline(folder)
    drawn: list[tuple[int, ...]] = []

    def triple(segmentation: NDArray[np.uint8]) -> torch.Tensor:
        drawn.append(segmentation.shape)
        return torch.full((len(segmentation), 1, 1, 1), 3.0)

    def loss(balance: Balance | None) -> float:
        bank = Bank(tmp_path, teacher, target, settings.distillation, 0.2, balance)
        with torch.no_grad():
            return float(distillation_loss(teacher, bank, encode, settings, 0))

    assert loss(triple) == pytest.approx(3 * loss(None))
    assert drawn == [(SHARD, *target.image_shape[1:])]


def test_a_student_continues_and_draws_in_its_own_steps_without_guidance(
    taught: tuple[Target, Path], tmp_path: Path
) -> None:
    target, folder = taught
    settings = distilling(folder)
    pretrain(target, settings, tmp_path / "straight")
    pretrain(target, settings.model_copy(update={"steps": 1}), tmp_path / "broken")
    (tmp_path / "broken/bank/0000.safetensors").unlink()
    student = pretrain(target, settings, tmp_path / "broken")
    straight = load_pipeline(tmp_path / "straight/pipeline")
    weights = (p.unet.state_dict() for p in (student, straight))
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    assert (student.config.steps, student.config.guidance) == (2, 1.0)
    assert student.config.s_noise == pytest.approx([0.81, 0.64])
    passes: list[int] = []
    student.unet.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    own, slow = MTDMGenerator(student), MTDMGenerator(student, MTDMOptions(steps=4))
    own.draw([ImageRequest("a cell", "p", 0, 0)])
    assert passes == [1, 1]
    assert not own.accepts_guidance
    assert MTDMGenerator(load_pipeline(folder)).accepts_guidance
    assert own.identity != slow.identity


@pytest.mark.parametrize("taught", [TinyTarget], indirect=True)
def test_a_teacher_takes_the_spacing_of_its_student(
    taught: tuple[Target, Path], tmp_path: Path
) -> None:
    target, folder = taught
    settings = distilling(folder).model_copy(update={"steps": 1, "timestep_rho": 2.0})
    student = pretrain(target, settings, tmp_path)
    teacher = load_pipeline(folder)
    teacher.register_to_config(timestep_rho=2.0)
    dropout = settings.attribute_dropout
    expected = Bank(tmp_path / "other", teacher, target, settings.distillation, dropout).states
    found = Bank(tmp_path / "bank", teacher, target, settings.distillation, dropout).states
    assert torch.equal(found, expected)
    assert student.config.timestep_rho == 2


def test_images_of_a_teacher_are_as_before(taught: tuple[Target, Path]) -> None:
    pipeline: MTDMPipeline = load_pipeline(taught[1])
    noise = seeded_noise(0, "p", 0, pipeline.noise_shape)[None]
    default, asked = pipeline(["a cell"], noise), pipeline(["a cell"], noise, 8, 2.0)
    assert (default.images == asked.images).all()


def test_steps_of_a_teacher_are_a_multiple_of_its_students() -> None:
    with pytest.raises(ValidationError, match="multiple of steps=3"):
        DistillationSettings(steps=3, teacher_steps=8)


def test_sessions_of_earlier_versions_draw_in_eight_steps() -> None:
    assert read_stored({"preset": "solar"}).generator.steps == 8
    new = {"preset": "solar", "generator": {"steps": None, "guidance": None}}
    assert read_stored(new).generator.steps is None
