from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from memory.errors import DataError
from tools.data.samples import Samples, concatenate


def dense(n: int = 3, **labels: Any) -> Samples:
    return Samples(
        images=np.zeros((n, 3, 8, 12), np.uint8),
        classes=np.zeros(n, np.int64),
        attributes=[{}] * n,
        ids=[str(i) for i in range(n)],
        labels=labels or {"segmentation": np.arange(n * 96, dtype=np.uint8).reshape(n, 8, 12)},
    )


def test_labels_follow_their_images() -> None:
    taken = dense().take([2, 0])
    assert taken.labels["segmentation"][:, 0, 0].tolist() == [192, 0]
    joined = concatenate([taken, dense(1)])
    assert joined.labels["segmentation"].shape == (3, 8, 12)


def test_labels_that_a_part_lacks_are_left_out() -> None:
    depth = {"depth": np.ones((3, 8, 12), np.float32)}
    both = replace(dense(), labels={**dense().labels, **depth})
    assert set(concatenate([both, dense()]).labels) == {"segmentation"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"segmentation": np.zeros((3, 8, 8), np.uint8)}, r"shape \(3, 8, 12\).*\(3, 8, 8\)"),
        ({"segmentation": np.zeros((3, 8, 12), np.int64)}, "must be uint8.*got int64"),
        ({"normals": np.zeros((3, 8, 12), np.float32)}, r"shape \(3, 3, 8, 12\)"),
        ({"dept": np.zeros((3, 8, 12), np.float32)}, "Did you mean 'depth'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dense(**labels)
