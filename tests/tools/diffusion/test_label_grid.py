"""Labels of pixels on the grid of a VAE's latents."""

from __future__ import annotations

import numpy as np
import pytest

from tests.tools.tiny_scenes import Scenes
from tools.data.samples import VOID
from tools.diffusion.label_codes import LabelCodes, LabelGrid

SCENES = Scenes()
CODES = LabelCodes.of(SCENES.samples, SCENES.pixel_classes)


@pytest.mark.parametrize(
    ("size", "scale", "grid", "patch"),
    [
        ((16, 24), 2, (8, 12), 2),
        # The labels are drawn larger, by a factor that is no whole number.
        ((40, 60), 4, (10, 15), 2),
        ((256, 384), 8, (32, 48), 1),
    ],
)
def test_no_pixel_is_lost(
    size: tuple[int, int], scale: int, grid: tuple[int, int], patch: int
) -> None:
    lies = LabelGrid.of(CODES, (16, 24), size, scale)
    assert (lies.grid, lies.patch) == (grid, patch)
    given = SCENES.samples.labels
    channels, known = lies.encode(given)
    assert channels.shape == known.shape == (4, 9 * patch**2, *grid)
    labels, confidence = lies.decode(channels, channels)
    assert (labels["segmentation"] == given["segmentation"]).all()
    assert labels["depth"] == pytest.approx(given["depth"], rel=1e-4)
    assert labels["normals"] == pytest.approx(given["normals"], abs=1e-4)
    assert all(values.min() > 0.999 for values in confidence.values())


def test_labels_finer_than_the_picture_are_taken_at_its_pixels() -> None:
    lies = LabelGrid.of(CODES, (16, 24), (8, 12), 2)
    assert lies.patch == 2
    channels, _ = lies.encode(SCENES.samples.labels)
    assert channels.shape == (4, 36, 4, 6)
    labels, _ = lies.decode(channels, channels)
    assert labels["depth"].shape == (4, 16, 24)


def test_what_is_not_known_is_zero_and_said() -> None:
    given = {kind: values.copy() for kind, values in SCENES.samples.labels.items()}
    given["segmentation"][0, 3, 5] = VOID
    given["depth"][1] = np.nan
    del given["normals"]
    channels, known = LabelGrid.of(CODES, (16, 24), (16, 24), 2).encode(given)
    assert (channels[known == 0] == 0).all()
    n_unknown = 5 * 1 + 1 * 16 * 24 + 4 * 3 * 16 * 24
    assert int((known == 0).sum()) == n_unknown
