from __future__ import annotations

import numpy as np

from eval import colours


def test_classes_have_colours_of_their_own_and_void_is_black() -> None:
    names = ["sky", "road", "car"]
    rgb = colours.segmentation_rgb(np.array([[[0, 1, 2, 255]]], np.uint8), names)
    assert rgb.shape == (1, 3, 1, 4)
    assert rgb[0, :, 0, 1].tolist() == [128, 64, 128]  # CamVid's road
    assert rgb[0, :, 0, 3].tolist() == [0, 0, 0]
    many = colours.palette([str(i) for i in range(250)])
    assert len({tuple(c) for c in many.tolist()}) == 250


def test_near_is_warm_and_unknown_black() -> None:
    rgb = colours.depth_rgb(np.array([[[2.0, 100.0, np.nan]]]), 2, 100).astype(int)
    near, far, unknown = rgb[0, :, 0].T.tolist()
    assert near[0] > near[2]
    assert far[0] < far[2]
    assert unknown == [0, 0, 0]


def test_what_faces_us_is_blue() -> None:
    normals = np.zeros((1, 3, 1, 2), np.float32)
    normals[0, 2, 0, 0] = -1
    normals[0, :, 0, 1] = np.nan
    rgb = colours.normals_rgb(normals)
    assert rgb[0, :, 0].T.tolist() == [[128, 128, 255], [0, 0, 0]]


def test_legends_name_and_scale() -> None:
    assert colours.legend(["sky", "road"]).shape[:2] == (3, 32)
    bar = colours.depth_bar(2, 100)
    assert bar.shape[0] == 3
    assert bar.dtype == np.uint8
    images = np.zeros((2, 1, 4, 6), np.uint8)
    assert colours.side_by_side(images, np.ones((2, 3, 4, 6), np.uint8)).shape == (2, 3, 4, 12)


def test_legends_below_one_another() -> None:
    narrow, wide = np.ones((3, 2, 4), np.uint8), np.full((3, 5, 9), 2, np.uint8)
    found = colours.below_one_another([narrow, wide])
    assert found.shape == (3, 7, 9)
    assert np.array_equal(found[:, :2, :4], narrow)
    assert np.array_equal(found[:, 2:], wide)
