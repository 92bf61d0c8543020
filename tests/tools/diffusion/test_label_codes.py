from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from memory.errors import DataError
from tools.data.samples import VOID, Samples
from tools.diffusion.label_codes import LabelCodes, mirrored

NAMES = tuple("abcdefghijk")


def samples(n: int = 6) -> Samples:
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(n, 3, 8, 12)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    ids = rng.integers(0, len(NAMES), (n, 8, 12)).astype(np.uint8)
    ids[0, 0] = VOID
    depth = rng.uniform(1, 200, (n, 8, 12)).astype(np.float32)
    depth[1] = np.nan
    return Samples(
        images=np.zeros((n, 3, 8, 12), np.uint8),
        classes=np.zeros(n, np.int64),
        attributes=[{}] * n,
        ids=[str(i) for i in range(n)],
        labels={"segmentation": ids, "depth": depth, "normals": normals},
    )


def decode(
    codes: LabelCodes, values: NDArray[np.float32]
) -> tuple[Mapping[str, NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]:
    return codes.decode(values, values)


def test_what_is_encoded_is_decoded() -> None:
    given = samples()
    codes = LabelCodes.of(given, NAMES)
    values, known = codes.encode(given.labels, (8, 12))
    assert values.shape == (6, codes.n_channels, 8, 12) == (6, 5 + 1 + 3, 8, 12)
    assert values[known].std() == pytest.approx(1, abs=0.05)
    assert (values[~known] == 0).all()
    labels, confidence = decode(codes, values)
    sure = given.labels["segmentation"] != VOID
    assert (labels["segmentation"] == given.labels["segmentation"])[sure].all()
    seen = np.isfinite(given.labels["depth"])
    assert labels["depth"][seen] == pytest.approx(given.labels["depth"][seen], rel=1e-4)
    assert labels["normals"] == pytest.approx(given.labels["normals"], abs=1e-5)
    assert confidence["segmentation"][sure] == pytest.approx(1, abs=1e-4)


def test_words_of_two_classes_differ_in_two_bits_at_least() -> None:
    for n in (1, 2, 3, 11, 19, 32):
        words = LabelCodes(kinds=("segmentation",), class_names=("x",) * n).words
        assert len(words) == n
        differ = (words[:, None] != words[None]).sum(2)
        assert (differ[~np.eye(n, dtype=bool)] >= 2).all()


def test_a_pixel_between_two_classes_is_one_of_them_and_doubtful() -> None:
    codes = LabelCodes(kinds=("segmentation",), class_names=NAMES, mean=(0,) * 5, std=(1,) * 5)
    words = codes.words
    near = [(a, b) for a in range(11) for b in range(a) if (words[a] != words[b]).sum() == 2]
    for a, b in near:
        between = (0.55 * words[a] + 0.45 * words[b])[None, :, None, None]
        labels, confidence = decode(codes, between)
        assert labels["segmentation"].item() == a
        assert confidence["segmentation"].item() == pytest.approx(0.1, abs=1e-5)


def test_depth_that_the_last_step_changed_is_doubtful() -> None:
    codes = LabelCodes(kinds=("depth",), mean=(0,), std=(1,), depth_m=(1, 100))
    here = np.full((1, 1, 2, 2), np.log(10), np.float32)
    _, sure = codes.decode(here, here)
    _, doubtful = codes.decode(here, here + 0.1)
    assert sure["depth"] == pytest.approx(1)
    assert doubtful["depth"] == pytest.approx(np.exp(-1), rel=1e-4)


def test_labels_that_are_missing_are_unknown() -> None:
    given = samples()
    codes = LabelCodes.of(given, NAMES)
    values, known = codes.encode({"segmentation": given.labels["segmentation"]}, (8, 12))
    assert not known[:, 5:].any()
    assert (values[:, 5:] == 0).all()


def test_bad_labels_are_named() -> None:
    given = samples()
    with pytest.raises(DataError, match=r"class id 10, but there are 4 classes.*0 to 3"):
        LabelCodes.of(given, NAMES[:4])
    codes = LabelCodes.of(given, NAMES)
    given.labels["depth"][2, 0, 0] = 0
    with pytest.raises(DataError, match=r"'2' is 0 metres.*above 0"):
        LabelCodes.of(given, NAMES)
    with pytest.raises(DataError, match="above 0"):
        codes.encode(given.labels, (8, 12))


def test_every_image_is_checked_not_those_of_the_statistics_alone() -> None:
    n = 4001
    depth = np.ones((n, 1, 1), np.float32)
    given = Samples(
        images=np.zeros((n, 1, 1, 1), np.uint8),
        classes=np.zeros(n, np.int64),
        attributes=[{}] * n,
        ids=[f"photograph {i}" for i in range(n)],
        labels={"depth": depth, "segmentation": np.zeros((n, 1, 1), np.uint8)},
    )
    depth[3] = 0
    with pytest.raises(DataError, match="'photograph 3'"):
        LabelCodes.of(given, NAMES)
    depth[3] = np.nan
    given.labels["segmentation"][3999] = 20
    with pytest.raises(DataError, match=r"'photograph 3999'.*class id 20"):
        LabelCodes.of(given, NAMES)


def test_codes_are_kept_as_json() -> None:
    codes = LabelCodes.of(samples(), NAMES)
    assert LabelCodes.model_validate(codes.to_json()) == codes
    assert LabelCodes.model_validate({}).n_channels == 0


def test_normals_turn_with_the_mirrored_image() -> None:
    normals = np.zeros((3, 2, 2), np.float32)
    normals[0, :, 0] = 1
    normals[1, 0] = -1
    turned = mirrored({"normals": normals}, horizontal=True, vertical=False)["normals"]
    assert (turned[0] == [[0, -1], [0, -1]]).all()
    assert (turned[1] == normals[1]).all()
    upside = mirrored({"normals": normals}, horizontal=False, vertical=True)["normals"]
    assert (upside[1] == [[0, 0], [1, 1]]).all()
