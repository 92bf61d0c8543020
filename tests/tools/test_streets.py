from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import prompts
from memory.errors import DataError
from tools import generators, streets
from tools.data.drawn import ImageRequest
from tools.streets import Scene, render, visible

CALM = {
    "light": "day",
    "weather": "clear",
    "traffic": "empty",
    "pedestrians": "none",
    "layout": "straight",
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render({}, seed) for seed in range(200)]


def back_project(scene: Scene) -> NDArray[np.float64]:
    """Points of all pixels in camera axes, (3, h, w), metres."""
    height, width = scene.depth.shape
    focal = streets.focal_px(width)
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (np.arange(height) + 0.5 - height / 2) / focal
    rays = np.stack([*np.meshgrid(x, y), np.ones_like(scene.depth)])
    points: NDArray[np.float64] = rays * scene.depth
    return points


def test_same_seed_same_bits_other_seed_other_image() -> None:
    for style in ("plain", "shifted"):
        first, again = (render({"weather": "rain"}, 7, style=style) for _ in range(2))
        for name in ("image", "segmentation", "depth", "normals"):
            np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert first.attributes == again.attributes
        other = render({"weather": "rain"}, 8, style=style)
        assert (first.image != other.image).mean() > 0.5


def test_shapes_types_and_ranges(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == scene.normals.shape == (3, 64, 96)
        assert scene.segmentation.shape == scene.depth.shape == (64, 96)
        assert scene.image.dtype == scene.segmentation.dtype == np.uint8
        assert scene.depth.dtype == scene.normals.dtype == np.float32
        assert scene.segmentation.max() < len(streets.CLASS_NAMES)
        assert scene.depth.min() > 0.2 and scene.depth.max() == streets.FAR_M
        assert (scene.depth[scene.segmentation == streets.Surface.SKY] == streets.FAR_M).all()
        np.testing.assert_allclose(np.linalg.norm(scene.normals, axis=0), 1, atol=1e-4)
        assert set(scene.attributes) == set(streets.PRIOR)
        assert scene.image.std() > 5


def test_every_class_appears_and_every_value_is_drawn(scenes: list[Scene]) -> None:
    seen = np.unique(np.stack([scene.segmentation for scene in scenes]))
    assert seen.tolist() == list(range(11))
    for key, values in streets.PRIOR.items():
        assert {scene.attributes[key] for scene in scenes} == set(values)


def test_normals_face_the_camera(scenes: list[Scene]) -> None:
    for scene in scenes[:40]:
        points = back_project(scene)
        towards = (points * scene.normals).sum(0) / np.linalg.norm(points, axis=0)
        assert (towards < 0.02).all()


@pytest.mark.parametrize(
    "label", [streets.Surface.ROAD, streets.Surface.BUILDING, streets.Surface.CAR]
)
def test_normals_agree_with_the_gradient_of_depth(label: int, scenes: list[Scene]) -> None:
    angles = []
    for scene in scenes[:60]:
        points, normals = back_project(scene), scene.normals.astype(float)
        here = points[:, :-1, :-1]
        plane = np.cross(points[:, 1:, :-1] - here, points[:, :-1, 1:] - here, axis=0)
        plane /= np.linalg.norm(plane, axis=0)
        a, right, below = (normals[:, :-1, :-1], normals[:, :-1, 1:], normals[:, 1:, :-1])
        flat = ((a * right).sum(0) > 0.999) & ((a * below).sum(0) > 0.999)
        labels = scene.segmentation
        flat &= (
            (labels[:-1, :-1] == label) & (labels[:-1, 1:] == label) & (labels[1:, :-1] == label)
        )
        cosine = (plane * a).sum(0)[flat]
        angles.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    assert np.median(np.concatenate(angles)) < 2


def test_depth_of_the_road_is_that_of_a_plane_below_the_camera(scenes: list[Scene]) -> None:
    for scene in scenes[:60]:
        camera = scene.camera
        y = (np.arange(64)[:, None] + 0.5 - 32) / streets.focal_px(96)
        down = y * math.cos(camera.pitch_rad) + math.sin(camera.pitch_rad)
        road = scene.segmentation == streets.Surface.ROAD
        expected = np.broadcast_to(camera.height_m / np.where(down > 0, down, np.nan), road.shape)
        np.testing.assert_allclose(scene.depth[road], expected[road], rtol=1e-4)


def test_densities_are_visible_in_the_labels(scenes: list[Scene]) -> None:
    for scene in scenes:
        for key, value in visible(scene.segmentation).items():
            assert scene.attributes[key] == value, (scene.attributes, key, value)
        if scene.attributes["pedestrians"] == "few":
            assert (scene.segmentation == streets.Surface.PEDESTRIAN).sum() >= 10
        if scene.attributes["traffic"] == "light":
            assert (scene.segmentation == streets.Surface.CAR).sum() >= 30


def test_cyclists_are_drawn_where_they_are_asked_for() -> None:
    generator = generators.build("streets", (3, 128, 192))
    asked = ("with cyclists", "without cyclists", "in the rain")
    shares = {}
    for text in asked:
        requests = [ImageRequest(f"a street {text}", "p", i, 0) for i in range(20)]
        masks = generator.draw(requests).labels["segmentation"]
        shares[text] = (masks == streets.Surface.BICYCLIST).mean((1, 2))
    some, none, left_open = shares.values()
    assert some.min() > 0 and none.max() == 0
    assert 0 < (left_open > 0).mean() < 0.7
    assert some.mean() > 3 * left_open.mean()


def test_light_and_weather_leave_the_street_and_its_labels_as_they_are() -> None:
    plain = render(CALM, 3)
    for change in ({"light": "night"}, {"light": "dusk"}, {"weather": "snow"}, {"weather": "fog"}):
        changed = render(CALM | change, 3)
        np.testing.assert_array_equal(plain.depth, changed.depth)
        np.testing.assert_array_equal(plain.segmentation, changed.segmentation)
        assert np.abs(plain.image.astype(int) - changed.image).mean() > 15


def test_night_is_darker_than_dusk_and_dusk_than_day() -> None:
    def brightness(light: str, style: streets.Style) -> float:
        return float(
            np.mean([render(CALM | {"light": light}, i, style=style).image for i in range(8)])
        )

    for style in ("plain", "shifted"):
        day, dusk, night = (brightness(light, style) for light in ("day", "dusk", "night"))
        assert night < 0.75 * dusk < 0.75 * day


def test_fog_takes_contrast_with_distance() -> None:
    def contrast(weather: str, near_m: float, far_m: float) -> float:
        spreads = []
        for seed in range(12):
            scene = render(CALM | {"weather": weather}, seed)
            chosen = (scene.depth > near_m) & (scene.depth < far_m)
            spreads.append(scene.image.mean(0)[chosen].std())
        return float(np.mean(spreads))

    near = contrast("fog", 3, 10) / contrast("clear", 3, 10)
    far = contrast("fog", 40, 120) / contrast("clear", 40, 120)
    assert far < 0.5 * near and far < 0.35


def test_larger_images_show_the_same_scene() -> None:
    agree = []
    for seed in range(8):
        small, double, triple = (render({}, seed, 96 * k, 64 * k) for k in (1, 2, 3))
        assert double.image.shape == (3, 128, 192)
        assert (double.camera, double.attributes) == (small.camera, small.attributes)
        agree.append((double.segmentation[::2, ::2] == small.segmentation).mean())
        # Only every third pixel of an image of three times the size has the same centre.
        same_centre = triple.segmentation[1::3, 1::3] == small.segmentation
        assert same_centre.mean() > 0.999
    assert np.mean(agree) >= 0.95 and min(agree) >= 0.93


def test_shifted_has_exact_labels_and_another_look() -> None:
    for seed in range(12):
        attributes = streets.scene_attributes({}, seed)
        plain, shifted = render(attributes, seed), render(attributes, seed, style="shifted")
        for name in ("segmentation", "depth", "normals"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(shifted, name))
        assert np.abs(plain.image.astype(int) - shifted.image).mean() > 5


def test_prior_of_shifted_is_long_tailed() -> None:
    n = 1000
    drawn = [streets.scene_attributes({}, seed, "shifted") for seed in range(n)]
    for key, values in streets.NATURAL_PRIOR.items():
        assert sum(values.values()) == pytest.approx(1)
        for value, share in values.items():
            assert sum(d[key] == value for d in drawn) / n == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("size", [(96, 96), (100, 64), (0, 0), (192, 64)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="96x64 times"):
        render({}, 0, *size)


@pytest.mark.parametrize("attributes", [{"light": "noon"}, {"wether": "rain"}])
def test_unknown_attributes_are_refused_with_what_is_known(attributes: dict[str, str]) -> None:
    with pytest.raises(DataError, match=r"day\|dusk\|night"):
        render(attributes, 0)


def test_vocabulary_has_the_values_of_the_renderer() -> None:
    file = Path(prompts.__file__).parent / "vocabularies" / "streets.yaml"
    words = yaml.safe_load(file.read_text("utf-8"))
    values = {key: set(phrases) for key, phrases in words["attributes"].items()}
    assert values == {key: set(prior) for key, prior in streets.PRIOR.items()}
    said = [
        phrase
        for phrases in words["attributes"].values()
        for places in phrases.values()
        for options in places.values()
        for phrase in options
    ]
    assert len(said) == len(set(said))


@pytest.mark.slow
def test_a_hundred_scenes_a_second_on_one_core() -> None:
    render({}, 0)
    start_s = time.process_time()
    for seed in range(300):
        render({}, seed)
    assert 300 / (time.process_time() - start_s) >= 100
