"""What pulls do: signs are checked on drawn images, with the same noise with and without."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from memory.errors import SettingsError
from memory.records import PromptSpec
from tools import tasks
from tools.data.drawn import ImageRequest
from tools.data.samples import Samples
from tools.diffusion.guidance import Critic, actgen_weight, along_gradient, critic_of
from tools.diffusion.label_codes import LabelCodes
from tools.diffusion.pipeline import MTDMPipeline
from tools.diffusion.weights import new_pipeline, weights_folder
from tools.generators.mtdm import MTDMGenerator, MTDMOptions
from tools.generators.mtdm import build as build_mtdm
from tools.models import criteria
from tools.settings import TrainSettings
from tools.targets.toy import build as build_toy
from tools.train_dstm import train_model

TEXTS = ("a dark poly cell, with a clear defect", "an intact mono cell")


@pytest.fixture(scope="module")
def critic() -> Critic:
    """A briefly trained classifier of the toy target's cells, with two cells it fails on."""
    target = build_toy(weights_folder("unused"))
    settings = TrainSettings(steps=25, batch_size=32)
    real = target.split("generator")
    real = replace(real, images=real.images.repeat(2, axis=2).repeat(2, axis=3))
    task = tasks.build("classification")
    model, _ = train_model(real, task, 2, settings)
    model.requires_grad_(requires_grad=False)
    failed = [int(np.flatnonzero(real.classes == number)[0]) for number in (0, 1)]
    return Critic(criteria.Dstm(model, task, settings), "sha", real.take(failed))


@pytest.fixture(scope="module")
def generator() -> MTDMGenerator:
    return build_mtdm((1, 64, 64), weights="bundled:solar", steps=4)


def draw(generator: MTDMGenerator, critic: Critic, pull: str | None, n: int = 6) -> torch.Tensor:
    """Return images of both texts, 0..1, their class being their text's."""
    drawn = generator.draw(requests(critic, pull, n))
    return torch.from_numpy(drawn.images).float() / 255


def requests(critic: Critic, pull: str | None, n: int) -> list[ImageRequest]:
    found = []
    for i in range(n):
        prompt = PromptSpec(id=f"p{i % 2}", text=TEXTS[i % 2], class_name="any", count=n, pull=pull)
        own = critic.guidance(prompt, i, 1 - i % 2)
        found.append(ImageRequest(prompt.text, prompt.id, i, 0, feedback=own))
    return found


def measure(critic: Critic, by: str, images: torch.Tensor) -> float:
    classes = [1 - i % 2 for i in range(len(images))]
    with torch.no_grad():
        return float(critic.criterion(by, images, classes, {}).mean())


@pytest.mark.parametrize("by", ["entropy", "loss"])
def test_pull_raises_what_it_goes_by(generator: MTDMGenerator, critic: Critic, by: str) -> None:
    plain, pulled = (draw(generator, critic, pull) for pull in (None, f"{by} 0.1"))
    assert measure(critic, by, pulled) > measure(critic, by, plain)
    # It is moved, not replaced.
    assert 0 < float((pulled - plain).abs().mean()) < 0.1


def test_pull_to_a_real_image_lowers_the_distance_to_it(
    generator: MTDMGenerator, critic: Critic
) -> None:
    assert critic.failed is not None
    goals = torch.from_numpy(critic.failed.images[[1, 0, 1, 0, 1, 0]]).float() / 255
    near, nearer, plain = (
        float((draw(generator, critic, pull) - goals).pow(2).mean())
        for pull in ("real 0.3", "real 0.9", None)
    )
    assert nearer < near < plain


def test_a_pulled_image_does_not_depend_on_its_company(
    generator: MTDMGenerator, critic: Critic
) -> None:
    asked = [
        request
        for pull in ("entropy 0.1", "loss 0.05", "real 0.2", None)
        for request in requests(critic, pull, 2)
    ]
    together = generator.draw(asked).images.astype(int)
    alone = np.concatenate([generator.draw([request]).images for request in asked]).astype(int)
    # Kernels may round differently for another batch size; the gradient makes a little more of it.
    assert np.abs(together - alone).max() <= 2


def test_photograph_is_of_the_class_and_shares_the_most_attributes(critic: Critic) -> None:
    assert critic.failed is not None
    failed = Samples(
        images=np.stack([np.full((1, 8, 8), i, np.uint8) for i in range(4)]),
        classes=np.array([0, 1, 1, 1]),
        attributes=[{"wafer": "poly"}, {"wafer": "mono"}, {"wafer": "poly"}, {"wafer": "poly"}],
        ids=["a", "b", "c", "d"],
    )
    own = replace(critic, failed=failed)
    prompt = PromptSpec(
        id="p", text="x", class_name="any", count=9, attributes={"wafer": "poly"}, pull="real 0.1"
    )
    pulls = [own.guidance(prompt, index, 1) for index in range(3)]
    assert [int(p.photograph.max()) for p in pulls if p and p.photograph is not None] == [2, 3, 2]
    assert own.guidance(prompt, 0, 7) is None
    assert replace(critic, failed=None).guidance(prompt, 0, 1) is None


def test_each_image_moves_by_its_own_length() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 1.0]])
    gradient = torch.tensor([[0.0, 2.0], [9.0, 0.0], [0.0, 0.0]])
    moved = along_gradient(x, gradient, torch.tensor([0.1, 0.5, 0.5]))
    assert torch.allclose(moved, torch.tensor([[3.0, 4.5], [0.5, 1.0], [1.0, 1.0]]))


def test_photographs_pull_in_the_first_steps_alone() -> None:
    weights = [actgen_weight(step, 8) for step in range(8)]
    assert weights[0] > 0.99
    assert weights[2] > 0.9 > 0.2 > weights[3]
    assert weights[-1] < 1e-6


@pytest.fixture(scope="module")
def joint() -> MTDMPipeline:
    codes = LabelCodes(
        kinds=("segmentation",), class_names=("road", "sky"), mean=(0,) * 2, std=(1,) * 2
    )
    torch.manual_seed(0)
    made = new_pipeline((3, 32, 48), 4, (16, 32), 0.5, 0.25, codes, prediction="clean")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("by", ["entropy", "loss"])
def test_gradient_by_a_dstm_of_pixels(joint: MTDMPipeline, by: str) -> None:
    """Up the gradient the mean over pixels is higher; the loss is that of the expected labels."""
    task = tasks.build("segmentation")
    settings = TrainSettings(task="segmentation", model="unet")
    torch.manual_seed(1)
    model = task.build_model((3, 32, 48), 2, settings).eval().requires_grad_(requires_grad=False)
    critic = Critic(criteria.Dstm(model, task, settings), "sha")
    pulls = [request.feedback for request in requests(critic, f"{by} 0.2", 4) if request.feedback]
    pixels = torch.rand(4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    ids = np.arange(4 * 32 * 48).reshape(4, 32, 48) // 7 % 2
    # One bit and its parity.
    coded = torch.from_numpy(2.0 * ids[:, None] - 1).float().repeat(1, 2, 1, 1)
    clean = joint.fold(pixels, coded)
    labels = {"segmentation": ids.astype(np.uint8)}

    def value(folded: torch.Tensor) -> torch.Tensor:
        return critic.criterion(by, joint.unfold(folded)[0].clamp(0, 1), [0] * 4, labels)

    gradient = joint._gradient(clean, pulls)
    assert (value(along_gradient(clean, gradient, torch.full((4,), 0.02))) > value(clean)).all()
    # Labels are not the DSTM's to change.
    assert (gradient[:, 3 * 16 :] == 0).all()


def test_pull_draws_labels_too(joint: MTDMPipeline) -> None:
    task = tasks.build("segmentation")
    settings = TrainSettings(task="segmentation", model="unet")
    model = task.build_model((3, 32, 48), 2, settings).eval().requires_grad_(requires_grad=False)
    critic = Critic(criteria.Dstm(model, task, settings), "sha")
    generator = MTDMGenerator(joint, MTDMOptions(steps=3))
    plain, pulled = (generator.draw(requests(critic, pull, 2)) for pull in (None, "loss 0.1"))
    assert pulled.labels["segmentation"].shape == (2, 32, 48)
    assert (plain.images != pulled.images).any()


def test_entropy_of_a_task_without_classes_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"'depth' predicts no probabilities.*loss or real"):
        criteria.entropy(tasks.build("depth"), torch.zeros(1, 1, 4, 4))


def test_entropy_and_margin_are_shares() -> None:
    task = tasks.build("classification")
    logits = torch.tensor([[0.0, 0.0], [20.0, 0.0]])
    assert criteria.entropy(task, logits).tolist() == pytest.approx([1, 0], abs=1e-6)
    assert criteria.margin(task, logits).tolist() == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("wrong", ["entropy", "entropy 0", "beauty 0.1", "loss 2", "loss nan", ""])
def test_pulls_that_are_none_are_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match=r"is no pull; expected one of entropy, loss, real"):
        PromptSpec(id="p", text="x", class_name="any", count=1, pull=wrong)


def test_pull_is_written_in_one_form_and_only_where_there_is_one() -> None:
    plain = PromptSpec(id="p", text="x", class_name="any", count=1)
    pulled = plain.model_copy(update={"pull": "entropy 0.05"})
    assert "pull" not in plain.to_json()
    assert PromptSpec.model_validate(pulled.to_json() | {"pull": " entropy 0.050"}) == pulled


def test_photographs_to_pull_toward_are_wrong_ones_or_of_high_loss() -> None:
    """Of photographs with wrong labels a DSTM fails on these, whether it has learnt them or not."""
    rng = np.random.default_rng(0)
    classes = np.arange(80) % 2
    levels = np.where(classes, 180, 60)[:, None, None, None]
    images = (levels + rng.normal(0, 10, (80, 1, 16, 16))).astype(np.uint8)
    good = Samples(images, classes, [{}] * 80, [str(i) for i in range(80)])
    settings = TrainSettings(steps=25, batch_size=32, learning_rate=0.01)
    task = tasks.build("classification")
    dstm = criteria.Dstm(train_model(good, task, 2, settings)[0], task, settings)
    wrong = classes.copy()
    wrong[:6] = 1 - wrong[:6]
    mixed = replace(good, classes=wrong)
    unseen = critic_of(dstm, "sha", mixed).failed
    assert unseen is not None and sorted(unseen.ids) == [*"012345"]
    learnt = critic_of(dstm, "sha", mixed, learnt=True).failed
    assert learnt is not None and sorted(learnt.ids[:6]) == [*"012345"]
    assert np.bincount(learnt.classes).tolist() == [10, 10]
    assert critic_of(dstm, "sha", good).failed is None
    assert critic_of(dstm, "sha").failed is None
