from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memory.errors import DataError
from tools.data.samples import Samples
from tools.data.sampling import Mix, class_frequencies, effective_size, sampling_chances
from tools.data.shards import read_shards, stratified, write_photographs
from tools.settings import DstmSettings, TrainSettings

EARLIER = TrainSettings()
ALIKE = DstmSettings(balance_classes=True)


def pool(weights: Any, classes: Any) -> Samples:
    n = len(weights)
    return Samples(
        images=np.zeros((n, 1, 4, 4), np.uint8),
        classes=np.asarray(classes),
        attributes=[{}] * n,
        ids=[str(i) for i in range(n)],
        weights=np.asarray(weights, dtype=np.float64),
    )


def test_weights_and_classes_decide_how_often_an_image_is_drawn() -> None:
    samples = pool([1, 0.5, 0, 1], [0, 0, 0, 1])
    unbalanced = EARLIER.model_copy(update={"balance_classes": False})
    assert sampling_chances(samples, unbalanced).tolist() == [1, 0.5, 0, 1]
    assert sampling_chances(samples, EARLIER).tolist() == pytest.approx([2 / 3, 1 / 3, 0, 1])
    with pytest.raises(DataError, match="None of 2 images"):
        sampling_chances(pool([0, 0], [0, 1]), EARLIER)


def audited() -> tuple[Samples, Any]:
    """Four classes of 200 images; of the last, the audit keeps 11, and the others are wrong."""
    rng = np.random.default_rng(0)
    weights = np.ones(800)
    weights[611:] = rng.uniform(0.1, 0.45, 189)
    is_wrong = np.arange(800) >= 611
    return pool(weights, np.repeat(range(4), 200)), is_wrong


def test_a_class_that_the_audit_rejects_is_drawn_less_often() -> None:
    samples, is_wrong = audited()
    before = sampling_chances(samples, EARLIER)
    # The error: balancing draws what the audit has rejected about as often as what it keeps.
    assert before[is_wrong].sum() / before[600:].sum() > 0.75
    now = sampling_chances(samples, ALIKE)
    totals = class_frequencies(samples, now, 4).tolist()
    assert totals[:3] == pytest.approx([totals[0]] * 3)
    assert totals[3] < 0.6 * totals[0]
    assert now[is_wrong].sum() / now.sum() < 0.7 * before[is_wrong].sum() / before.sum()
    # No image of a rejected class is drawn more often than min_class_weight allows.
    assert now.max() <= 1 / 50
    assert effective_size(now) > 600


def test_an_adjusted_loss_weighs_classes_as_balanced_drawing_does() -> None:
    settings, (samples, _) = DstmSettings(), audited()
    assert settings.logit_adjustment == 1
    goals = class_frequencies(samples, sampling_chances(samples, ALIKE), 4)
    drawn = class_frequencies(samples, sampling_chances(samples, settings), 4)
    adjustment = Mix(samples, 4, settings, None).adjustment(0)
    assert adjustment is not None
    assert adjustment.tolist() == pytest.approx((drawn / goals).log().tolist(), rel=1e-5)


def test_the_loss_of_a_last_stretch_is_adjusted_by_the_photographs() -> None:
    classes = np.array([0] * 30 + [1] * 10 + [0] * 10 + [1] * 40)
    samples, is_real = pool(np.ones(90), classes), np.arange(90) < 40
    settings = DstmSettings(steps=10, real_finish=0.5)
    mix = Mix(samples, 2, settings, is_real)
    for step, odds in ((0, 40 / 50), (4, 40 / 50), (5, 30 / 10), (9, 30 / 10)):
        added = mix.adjustment(step)
        assert added is not None
        assert float(added[0] - added[1]) == pytest.approx(np.log(odds), rel=1e-5)
    assert Mix(samples, 2, ALIKE, is_real).adjustment(0) is None


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, (False, 1)),
        ({"logit_adjustment": 0.5}, (False, 0.5)),
        ({"logit_adjustment": 0}, (True, 0)),
        ({"balance_classes": True}, (True, 0)),
        ({"balance_classes": False}, (False, 0)),
        ({"task": "segmentation"}, (True, 0)),
        ({"train_on": "synthetic"}, (True, 0)),
    ],
)
def test_rare_classes_of_photographs_are_made_up_for_in_the_loss_by_default(
    given: dict[str, Any], chosen: tuple[bool, float]
) -> None:
    settings = DstmSettings.model_validate(given)
    assert (settings.balance_classes, settings.logit_adjustment) == chosen


def test_a_rejected_class_is_learnt_from_its_photographs() -> None:
    made, _ = audited()
    samples = pool([*made.weights, *np.ones(40)], [*made.classes, *np.repeat(range(4), 10)])
    is_real = np.arange(840) >= 800
    chances = sampling_chances(samples, ALIKE, is_real)
    generated = chances.clone()
    generated[is_real] = 0
    shares = class_frequencies(samples, generated, 4) * generated.sum() / chances.sum() * 4
    assert class_frequencies(samples, chances, 4).tolist() == pytest.approx([0.25] * 4)
    assert shares[:3].tolist() == pytest.approx([1 / 3] * 3)
    assert shares[3] < 0.2


def test_no_generated_image_of_few_has_more_than_its_part_of_a_class() -> None:
    settings, rng = DstmSettings(), np.random.default_rng(0)
    for n in (1, 5, 40, 400):
        # A class of n images beside one of 1,000, both kinds of it with and without photographs.
        weights = np.concatenate([rng.uniform(0.25, 1, n), np.ones(1000), np.ones(100)])
        classes = np.array([0] * n + [1] * 1000 + [0] * 50 + [1] * 50)
        for rows in (slice(None), slice(n + 1000)):
            is_real = np.arange(len(classes))[rows] >= n + 1000
            chances = sampling_chances(pool(weights[rows], classes[rows]), settings, is_real)
            of_full_class = chances[classes[rows] == 1].sum()
            assert chances[:n].max() <= of_full_class / settings.min_class_weight


@pytest.mark.parametrize("is_balanced", [True, False])
def test_the_share_holds_within_each_class_that_has_both_kinds(is_balanced: bool) -> None:
    classes = np.array([0] * 60 + [1] * 60 + [0] * 30 + [2] * 20)
    samples, is_real = pool(np.ones(170), classes), np.arange(170) >= 120
    settings = DstmSettings(synthetic_share=0.2, balance_classes=is_balanced)
    chances = sampling_chances(samples, settings, is_real)
    n = 50_000
    rows = torch.multinomial(chances, n, True, generator=torch.Generator().manual_seed(0)).numpy()
    drawn, real = classes[rows], is_real[rows]
    assert (~real)[drawn == 0].mean() == pytest.approx(0.2, abs=0.01)
    assert (~real)[drawn == 1].all() and real[drawn == 2].all()
    expected = [1 / 3] * 3 if is_balanced else [90 / 170, 60 / 170, 20 / 170]
    assert (np.bincount(drawn) / n).tolist() == pytest.approx(expected, abs=0.01)
    alone = sampling_chances(samples, settings, is_real, real_alone=True)
    assert not alone[:120].any() and alone[120:].all()


def test_few_photographs_are_chosen_class_by_class() -> None:
    samples = pool(np.ones(100), [0] * 80 + [1] * 17 + [2] * 3)
    chosen = stratified(samples, 20, seed=3)
    assert np.bincount(chosen.classes).tolist() == [16, 3, 1]
    assert set(stratified(samples, 10, seed=3).ids) < set(chosen.ids)
    assert stratified(samples, 20, seed=4).ids != chosen.ids
    assert np.bincount(stratified(samples, 1, seed=3).classes).tolist() == [1, 1, 1]
    assert stratified(samples, 100, seed=3) is samples


def test_photographs_are_stored_once_by_their_content(tmp_path: Path, target: Any) -> None:
    photographs = target.split("generator")
    paths = write_photographs(photographs, tmp_path, ["plain", "square"])
    assert write_photographs(photographs, tmp_path, ["plain", "square"]) == paths
    stored = read_shards(paths)
    assert np.array_equal(stored.images, photographs.images)
    assert stored.ids == list(photographs.ids)
    others = write_photographs(target.split("audit"), tmp_path, ["plain", "square"])
    assert others[0].parent != paths[0].parent
