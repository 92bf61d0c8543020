"""The task `classification`: which class is taken for which."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tools.data.samples import Samples
from tools.tasks import Slicing, pixel_batches
from tools.tasks.classification import Classification


def test_a_report_names_what_each_class_is_taken_for() -> None:
    true = np.repeat([0, 1, 2], [4, 6, 5])
    predicted = np.array([0, 0, 0, 0, 2, 2, 2, 0, 1, 1, 2, 2, 2, 2, 1])
    samples = Samples(
        images=np.zeros((15, 1, 8, 8), np.uint8),
        classes=true,
        attributes=[{"light": "dusk"}] * 15,
        ids=[str(i) for i in range(15)],
    )
    report = Classification().report(
        np.eye(3)[predicted], samples, ("car", "bus", "van"), 1, "feedback", Slicing((), 4)
    )
    said = [(c.true, c.predicted, c.n, c.n_photographs) for c in report.confusions]
    assert said == [("bus", "van", 3, 6), ("van", "bus", 1, 5)]
    assert "confusions" not in report.model_copy(update={"confusions": ()}).to_json()


def test_images_that_cannot_be_written_are_read_without_a_warning() -> None:
    images = np.full((2, 8, 8, 3), 51, np.uint8)
    images.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (batch,) = pixel_batches(images, 4)
    assert float(batch.mean()) == pytest.approx(0.2)
