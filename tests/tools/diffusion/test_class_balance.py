"""Rare classes weigh more in an MTDM's loss."""

import numpy as np
import pytest
import torch

from tools.data.samples import VOID
from tools.pretraining.pretrain import class_weights, patch_weights


def test_the_weight_of_a_class_falls_with_the_power_of_its_frequency() -> None:
    ids = np.zeros((1, 10, 10), np.uint8)
    ids[0, 0, :4] = 1
    weights = class_weights(ids, 3, 0.5)
    assert weights[1] / weights[0] == pytest.approx((0.96 / 0.04) ** 0.5, rel=1e-5)
    assert float(weights[torch.from_numpy(ids.astype(np.int64))].mean()) == pytest.approx(1)
    assert weights[2] == weights[VOID] == 1
    assert torch.equal(class_weights(ids, 3, 0), torch.ones(256))


def test_unknown_pixels_count_for_no_class_and_a_class_of_one_pixel_does_not_take_over() -> None:
    ids = np.full((1, 200, 200), VOID, np.uint8)
    ids[0, :100] = 0
    ids[0, 0, 0] = 1
    weights = class_weights(ids, 2, 1.0)
    assert weights[1] == pytest.approx(20 * float(weights[0]) / 0.5, rel=0.01)
    assert class_weights(np.full((1, 4, 4), VOID, np.uint8), 2, 1.0)[0] == 1


def test_a_patch_weighs_what_its_pixels_do_on_average() -> None:
    ids = np.zeros((2, 4, 8), np.uint8)
    ids[1, 0, 4:8] = 1
    weights = torch.ones(256)
    weights[1] = 5.0
    expected = torch.ones(2, 1, 1, 2)
    expected[1, 0, 0, 1] = 2.0
    assert torch.equal(patch_weights(ids, weights, 4), expected)


def test_weights_may_differ_by_image() -> None:
    ids = np.zeros((2, 4, 4), np.uint8)
    weights = torch.ones(2, 256)
    weights[1, 0] = 3.0
    assert patch_weights(ids, weights, 4).flatten().tolist() == [1.0, 3.0]
