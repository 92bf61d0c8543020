from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.corruption import FAULTS, corrupt
from eval.dense import VOID

SIZE = (24, 36)


def labels(seed: int) -> dict[str, NDArray[Any]]:
    """Return the labels of an image of four regions, with a small object."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(SIZE, np.uint8)
    ids[12:] = 1
    ids[:, 20:] += 2
    ids[5:9, 5:9] = 7
    depth = (5 + 3 * ids + rng.random()).astype(np.float32)
    normals = np.zeros((3, *SIZE), np.float32)
    normals[2] = -1
    normals[:, 12:] = np.array([0, -1, 0], np.float32)[:, None, None]
    return {"segmentation": ids, "depth": depth, "normals": normals}


def changed(before: dict[str, NDArray[Any]], after: dict[str, NDArray[Any]]) -> float:
    return float((before["segmentation"] != after["segmentation"]).mean()) + float(
        np.abs(np.log(after["depth"] / before["depth"])).mean()
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_stronger_than_a_weak_one_and_keeps_the_form(name: str) -> None:
    own, other = labels(0), labels(1)
    before = {kind: values.copy() for kind, values in own.items()}
    sums = []
    for strength in (0.05, 1.0):
        made = [
            FAULTS[name](own, other, strength, np.random.default_rng(seed)) for seed in range(20)
        ]
        sums.append(sum(changed(own, one) for one in made))
        for one in made:
            for kind, values in own.items():
                assert one[kind].shape == values.shape
                assert one[kind].dtype == values.dtype
            assert (one["depth"] > 0).all()
            assert np.allclose(np.linalg.norm(one["normals"], axis=0), 1, atol=1e-4)
            assert set(np.unique(one["segmentation"])) <= {0, 1, 2, 3, 7}
    assert sums[0] < sums[1]
    assert all(np.array_equal(own[kind], before[kind]) for kind in own)


def test_missing_objects_are_replaced_by_what_is_around_them() -> None:
    made = FAULTS["missing"](labels(0), labels(1), 1.0, np.random.default_rng(0))
    assert 7 not in made["segmentation"]
    assert (made["segmentation"][5:9, 5:9] == 0).all()
    assert np.allclose(made["depth"][5:9, 5:9], labels(0)["depth"][0, 0])


def test_another_scene_replaces_all_labels() -> None:
    other = {kind: values[..., ::-1] for kind, values in labels(1).items()}
    made = FAULTS["elsewhere"](labels(0), other, 1.0, np.random.default_rng(0))
    assert all(np.array_equal(made[kind], other[kind]) for kind in other)


def test_some_stay_as_they_are_and_unknown_pixels_unknown() -> None:
    stacked = {kind: np.stack([labels(seed)[kind] for seed in range(30)]) for kind in labels(0)}
    stacked["segmentation"][:, 3:6, 10:20] = VOID
    stacked["depth"][:, :, :3] = np.nan
    stacked["normals"][:, :, 20:] = np.nan
    first, second = (corrupt(stacked, np.random.default_rng(1)) for _ in range(2))
    for kind, values in stacked.items():
        assert np.array_equal(first[kind], second[kind], equal_nan=True)
        assert first[kind].dtype == values.dtype
        unknown = values == VOID if kind == "segmentation" else np.isnan(values)
        found = first[kind] == VOID if kind == "segmentation" else np.isnan(first[kind])
        assert np.array_equal(unknown, found)
    same = [
        np.array_equal(a, b)
        for a, b in zip(first["segmentation"], stacked["segmentation"], strict=True)
    ]
    assert 5 < sum(same) < 25
    untouched = corrupt(stacked, np.random.default_rng(1), clean_share=1.0)
    assert all(np.array_equal(untouched[k], v, equal_nan=True) for k, v in stacked.items())


def test_labels_without_segmentation_have_faults_too() -> None:
    depth = {"depth": np.stack([labels(seed)["depth"] for seed in range(40)])}
    made = corrupt(depth, np.random.default_rng(0), clean_share=0.0)
    wrong = np.abs(np.log(made["depth"] / depth["depth"])).mean((1, 2)) > 1e-3
    assert wrong.mean() > 0.7
