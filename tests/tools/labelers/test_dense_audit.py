"""The audit of labels of pixels, on patches of planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.metrics import auroc
from memory.errors import DataError, SettingsError
from memory.records import Plan, PromptSpec
from tools.data.drawn import Drawn, ImageRequest
from tools.data.samples import Samples
from tools.data.shards import read_shards
from tools.generate_batch import Workshop, generate_batch
from tools.labelers.dense_audit import DenseAudit, train_dense_audit
from tools.settings import AuditSettings, TrainSettings

TRAIN = TrainSettings(
    task="multi", model="unet", steps=60, batch_size=16, learning_rate=0.005, balance_classes=False
)
SETTINGS = AuditSettings(method="dense", train=TRAIN, members=2, threshold=0.8, floor=0.2)
SIZE = (24, 32)
FOCAL_PX = 30.0


@dataclass(frozen=True)
class Patches:
    """Patches of planes; brightness says which of four directions and distances a patch has."""

    name: str = "patches"
    flips: Sequence[str] = ("horizontal",)
    pixel_classes: Sequence[str] = ("ahead", "floor", "left", "right")

    def split(self, name: str) -> Samples:
        rng = np.random.default_rng({"audit": 0, "feedback": 1}[name])
        rows = [patches(rng) for _ in range(64)]
        return Samples(
            images=np.stack([row[0] for row in rows]),
            classes=np.zeros(64, np.int64),
            attributes=[{"light": "night" if i % 4 == 0 else "day"} for i in range(64)],
            ids=[f"{name}{i}" for i in range(64)],
            labels={
                "segmentation": np.stack([row[1] for row in rows]),
                "depth": np.stack([row[2] for row in rows]),
                "normals": np.stack([row[3] for row in rows]),
            },
        )


def patches(rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    """Return image and labels of one scene: 3 x 4 patches of 8 x 8 pixels."""
    height, width = SIZE
    ids = rng.integers(0, 4, (3, 4)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    rays = np.stack([(x + 0.5 - width / 2), (y + 0.5 - height / 2), np.full(SIZE, FOCAL_PX)])
    directions = np.array([[0, 0, -1], [0, -0.6, -0.8], [0.6, 0, -0.8], [-0.6, 0, -0.8]])
    normals = np.moveaxis(directions[ids], -1, 0).astype(np.float32)
    metres = 3 * 2.0**ids
    depth = (-metres / (normals * rays / FOCAL_PX).sum(0)).astype(np.float32)
    gray = np.array([30, 90, 160, 230])[ids] + rng.normal(0, 6, SIZE)
    image = np.broadcast_to(gray.clip(0, 255).astype(np.uint8), (1, *SIZE)).copy()
    return image, ids, depth, normals


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def target() -> Any:
    return Patches()


@pytest.fixture(scope="module")
def audit(target: Any, cache_dir: Path) -> DenseAudit:
    return train_dense_audit(target, SETTINGS, cache_dir)


@pytest.fixture(scope="module")
def unseen(target: Any) -> Samples:
    samples: Samples = target.split("feedback")
    return samples


def of_other_scenes(samples: Samples) -> Samples:
    return replace(samples, labels={k: np.roll(v, 1, 0) for k, v in samples.labels.items()})


def test_true_labels_score_high_and_those_of_other_scenes_low(
    audit: DenseAudit, unseen: Samples
) -> None:
    true, weights, kept = audit.verify(unseen, {})
    wrong, wrong_weights, _ = audit.verify(of_other_scenes(unseen), {})
    assert true.shape == weights.shape == kept.shape == (64,)
    assert np.median(true) > 0.75
    assert np.median(wrong) < 0.6
    bad = np.repeat([0, 1], 64)
    assert auroc(bad, -np.concatenate([true, wrong])).value > 0.95
    assert kept.mean() >= 0.85
    assert wrong_weights.mean() < 0.8 * weights.mean()
    assert np.array_equal(kept, weights == 1)
    assert wrong_weights.min() >= 0.2


def test_every_kind_is_judged_by_itself(audit: DenseAudit, unseen: Samples) -> None:
    before = audit.scores(audit.evidence(unseen, {}))
    assert before.keys() == {"segmentation", "depth", "normals"}
    far = replace(unseen, labels={**unseen.labels, "depth": unseen.labels["depth"] * 3})
    after = audit.scores(audit.evidence(far, {}))
    assert np.array_equal(after["segmentation"], before["segmentation"])
    assert (after["depth"] < before["depth"]).mean() > 0.95
    # As a whole, depth is too far: its gradient, and so the normals, are right.
    assert np.allclose(after["normals"], before["normals"], atol=0.01)


def test_what_the_generator_doubts_is_doubted(audit: DenseAudit, unseen: Samples) -> None:
    kinds = ("segmentation", "depth", "normals")
    sure = {kind: np.ones((64, *SIZE), np.float32) for kind in kinds}
    plain, certain = audit.verify(unseen, {})[0], audit.verify(unseen, sure)[0]
    assert np.allclose(plain, certain)
    sure["depth"][:32] = 0.2
    doubted = audit.verify(unseen, sure)[0]
    assert (doubted[:32] < plain[:32]).all()
    assert np.allclose(doubted[32:], plain[32:])


def test_what_is_said_of_an_image_does_not_depend_on_the_others(
    audit: DenseAudit, unseen: Samples
) -> None:
    together = audit.verify(unseen, {})
    alone = audit.verify(unseen.take([7]), {})
    assert np.allclose([part[7] for part in together], [part[0] for part in alone], atol=1e-4)
    assert [len(part) for part in audit.verify(unseen.take([]), {})] == [0, 0, 0]


def test_the_focal_length_is_that_of_the_camera(audit: DenseAudit) -> None:
    assert audit.calibration.focal_px == pytest.approx(FOCAL_PX, rel=0.05)


def test_a_hard_slice_is_not_held_to_the_limit_of_easy_ones(
    audit: DenseAudit, unseen: Samples
) -> None:
    limits = {"": 0.4, "light=night": 0.1}
    lenient = replace(audit, calibration=audit.calibration.model_copy(update={"limits": limits}))
    night = replace(unseen, attributes=[{"light": "night"}] * len(unseen))
    day = replace(unseen, attributes=[{"light": "day"}] * len(unseen))
    wrong = of_other_scenes(day)
    scores, _, kept = lenient.verify(wrong, {})
    assert np.array_equal(kept, scores >= 0.4)
    scores, _, kept = lenient.verify(replace(night, labels=wrong.labels), {})
    assert np.array_equal(kept, scores >= 0.1)


def test_it_is_trained_once(
    audit: DenseAudit, target: Any, cache_dir: Path, unseen: Samples
) -> None:
    steps: list[int] = []

    def note(done: int, total: int) -> None:
        steps.append(done)

    strict = SETTINGS.model_copy(update={"threshold": 0.9})
    again = train_dense_audit(target, strict, cache_dir, progress=note)
    assert not steps
    assert np.array_equal(again.verify(unseen, {})[0], audit.verify(unseen, {})[0])


class Drawing:
    """A generator whose every second image has the labels of another scene."""

    name = "drawing"
    identity = "drawing"
    max_tokens = 64

    def __init__(self, scenes: Samples) -> None:
        self._scenes = scenes

    def count_tokens(self, text: str) -> int:
        return 1

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        rows = np.array([request.index for request in requests])
        labels = {k: v[rows + rows % 2] for k, v in self._scenes.labels.items()}
        return Drawn(self._scenes.images[rows], labels)


def test_generated_batches_are_weighed(audit: DenseAudit, target: Any, tmp_path: Path) -> None:
    plan = Plan(
        round=1,
        author="test",
        prompts=(PromptSpec(id="r001p00", text="a street", class_name="scene", count=6),),
    )
    generator = Drawing(target.split("feedback"))
    weights = []
    for size in (2, 5):
        folder = tmp_path / str(size)
        batch = generate_batch(plan, folder, 0, Workshop(generator, audit, ("scene",)), size)
        stored = read_shards([folder / shard.file for shard in batch.shards])
        assert batch.n_kept == (stored.weights == 1).sum()
        weights.append(stored.weights)
        assert (stored.weights[::2] > stored.weights[1::2]).all()
    assert np.allclose(weights[0], weights[1], atol=1e-4)


def test_what_cannot_be_judged_is_named(
    audit: DenseAudit, target: Any, unseen: Samples, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="the images have no depth, normals"):
        only = {"segmentation": unseen.labels["segmentation"]}
        audit.verify(replace(unseen, labels=only), {})
    with pytest.raises(SettingsError, match=r"audit\.train\.task is 'classification'"):
        train_dense_audit(target, AuditSettings(method="dense"), tmp_path)
