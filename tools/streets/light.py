"""Deferred shading of the buffers: light, shadows, weather, lens and sensor."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.streets.plan import Street, Style, looks
from tools.streets.rays import (
    HEIGHT,
    WIDTH,
    Array,
    Buffers,
    Colour,
    Solid,
    Spot,
    Surface,
    camera_rays,
    rgb,
    windows,
)
from tools.streets.textures import mix, noise, noise_table, soft_noise


class _Air(NamedTuple):
    """Linear colours of the sky at zenith and horizon, of ambient light and of the sun."""

    zenith: Colour
    horizon: Colour
    ambient: Colour
    sun: Colour


_EXTINCTION_PER_M = {"clear": 0.0015, "rain": 0.007, "fog": 0.06, "snow": 0.012}


def _air(attributes: Mapping[str, str]) -> _Air:
    light, weather = attributes["light"], attributes["weather"]
    air = _Air(**looks()["air"]["clear" if weather == "clear" else "overcast"][light])
    if weather == "clear":
        return air
    dim = 0.6 if weather == "rain" else 1.0
    return _Air(*((dim * r, dim * g, dim * b) for r, g, b in air))


def illuminate(buffers: Buffers, street: Street) -> Array:
    """Return the linear image, (3, h, w), from the finished buffers."""
    attributes, air = street.attributes, _air(street.attributes)
    points = buffers.depth * buffers.rays
    if attributes["weather"] == "snow":
        _snow_cover(buffers, street, points)
    lit = buffers.albedo * _irradiance(buffers, street, points, air) + buffers.glow
    image = np.where(buffers.label == Surface.SKY, _sky(buffers, street, air), lit)
    if attributes["weather"] == "rain":
        image = _wet(buffers, image, points)
    clear = np.exp(-_EXTINCTION_PER_M[attributes["weather"]] * buffers.depth)
    if attributes["weather"] == "clear":
        clear[buffers.label == Surface.SKY] = 1
    image = mix(rgb(air.horizon), image, clear)
    _halos(image, buffers, street)
    return _precipitation(image, street)


def _snow_cover(buffers: Buffers, street: Street, points: Array) -> None:
    x, z = points[0], points[2]
    up = np.clip(-1.6 * buffers.normal[1], 0, 1)
    tracks = sum(
        np.abs(np.abs(x - lane) - 0.75) < 0.28 for lane in (street.own_x, street.oncoming_x)
    )
    patchy = 0.8 + 0.2 * noise(x * 2, z)
    worn = np.where(buffers.label == Surface.ROAD, 1 - 0.55 * np.asarray(tracks), 1)
    cover = np.where(buffers.label == Surface.TREE, np.clip(up + 0.35, 0, 1), up) * worn * patchy
    np.copyto(buffers.albedo, mix(buffers.albedo, 0.88, cover))


def _irradiance(buffers: Buffers, street: Street, points: Array, air: _Air) -> Array:
    normal = buffers.normal
    look = random.Random(f"{street.seed} sun")
    light: Array = rgb(air.ambient) * (0.72 - 0.28 * normal[1])
    _contact_shadows(light, buffers, street.shadows)
    if air.sun[0] > 0:
        side = look.choice((-1.0, 1.0)) * look.uniform(0.4, 1.0)
        ahead = look.uniform(-0.8, 0.3)
        sun = np.array([side, -look.uniform(0.5, 1.2), ahead], "f4")
        sun /= np.linalg.norm(sun)
        facing = np.clip(np.einsum("i,ijk->jk", sun, normal), 0, 1)
        if street.attributes["light"] == "day":
            facing *= _sunlit(street, points, sun)
        light = light + rgb(air.sun) * facing
    if street.dark:
        light = light + _lamp_light(buffers, street, points)
    return light


def _contact_shadows(light: Array, buffers: Buffers, spots: Sequence[Spot]) -> None:
    """Darken the ground under cars and people."""
    ground = buffers.camera.height_m
    boxes = [
        Solid(
            (spot.x - spot.half_x, ground - 0.15, spot.z - spot.half_z),
            (spot.x + spot.half_x, ground, spot.z + spot.half_z),
            Surface.ROAD,
            (0, 0, 0),
        )
        for spot in spots
    ]
    for spot, window in zip(spots, windows(boxes, buffers), strict=True):
        here = (slice(None), *window)
        x, y, z = buffers.depth[window] * buffers.rays[here]
        under = (np.abs(x - spot.x) < spot.half_x) & (np.abs(z - spot.z) < spot.half_z)
        light[here] *= np.where(under & (y > ground - 0.2), np.float32(0.35), 1)


def _sunlit(street: Street, points: Array, sun: Array) -> Array:
    """Return 0 where a house hides the sun from a point, else 1."""
    side = int(sun[0] > 0)
    away = np.abs(points[0] - street.fronts[side]) / abs(sun[0])
    reached = ((points[2] + away * sun[2]) / 2).astype("i4").clip(0, 127)
    ray_height = street.camera.height_m - points[1] - away * sun[1]
    lit: Array = (ray_height > street.skyline[side][reached]).astype("f4")
    return lit


def _lamp_light(buffers: Buffers, street: Street, points: Array) -> Array:
    """Return the diffuse light of street lamps and of the ego vehicle's headlights."""
    strength = 1.0 if street.attributes["light"] == "night" else 0.35
    rays, normal, depth = buffers.rays, buffers.normal, buffers.depth
    total: Array = np.zeros_like(points)
    for lamp in street.lamps:
        if lamp.radius_m > 1:
            offset = rgb(lamp.position) - points
            square = (offset * offset).sum(0)
            facing = np.maximum((offset * normal).sum(0), 0) + 0.3
            total += rgb(lamp.colour) * (strength * 14 * facing / (square * np.sqrt(square) + 12))
    beam = np.exp(-((rays[0] / 0.35) ** 2) - ((rays[1] - 0.12) / 0.16) ** 2)
    facing = np.clip(-(normal * rays).sum(0), 0, 1) ** 0.5
    total += rgb((1.0, 0.93, 0.75)) * (strength * 1.1 * beam * facing / (1 + (depth / 14) ** 2))
    return total


def _sky(buffers: Buffers, street: Street, air: _Air) -> Array:
    up = np.clip(-buffers.rays[1] * 2.2, 0, 1)
    sky = mix(rgb(air.horizon), rgb(air.zenith), np.sqrt(up))
    if street.attributes["light"] == "night" or street.attributes["weather"] == "fog":
        return sky
    shift = street.seed % 997
    u, v = buffers.rays[0] * 6 + shift, buffers.rays[1] * 14
    clouds = (soft_noise(u, v) + 0.5 * soft_noise(2 * u, 2 * v)) / 1.5
    cloudy = np.clip(3 * clouds - 1.3, 0, 0.8)
    white = 0.85 if street.attributes["light"] == "day" else 0.25
    if street.attributes["weather"] != "clear":
        return sky * (0.8 + 0.4 * clouds)
    return mix(sky, rgb((white, 0.97 * white, 0.95 * white)), cloudy)


def _wet(buffers: Buffers, image: Array, points: Array) -> Array:
    """Add reflections on wet ground: columns mirrored at the foot of objects, by grazing angle."""
    ground = (buffers.label == Surface.ROAD) | (buffers.label == Surface.PAVEMENT)
    row = np.arange(ground.shape[0])[:, None]
    foot = np.maximum.accumulate(np.where(ground, 0, row + 1), 0)
    column = np.arange(ground.shape[1])
    spread = max(ground.shape[0] // HEIGHT, 1)
    shifts = [np.clip(2 * foot - 1 - row + d * spread, 0, None) for d in (-2, 0, 2)]
    mirrored = np.mean([image[:, rows, column] for rows in shifts], 0)
    steep = buffers.rays[1] / np.sqrt((buffers.rays**2).sum(0))
    puddle = 0.55 + 0.6 * soft_noise(points[0] * 0.8, points[2] * 0.35)
    weight = np.clip((0.2 + 0.75 * (1 - steep) ** 4) * puddle, 0, 0.85) * ground
    return mix(np.where(ground, image * 0.7, image), mirrored, weight)


def _halos(image: Array, buffers: Buffers, street: Street) -> None:
    """Add the glow of visible lamps in lens and air."""
    rotation, (height, width) = buffers.camera.rotation(), buffers.depth.shape
    wide = {"clear": 1.0, "rain": 1.3, "fog": 2.2, "snow": 1.3}[street.attributes["weather"]]
    fade = _EXTINCTION_PER_M[street.attributes["weather"]]
    for lamp in street.lamps:
        x, y, z = (np.array(lamp.position, "f4") @ rotation).tolist()
        if z < 1:
            continue
        column, row = x / z * buffers.focal + width / 2, y / z * buffers.focal + height / 2
        if not (0 <= column < width and 0 <= row < height):
            continue
        if buffers.depth[int(row), int(column)] < z - 0.8:
            continue
        sigma = max(lamp.radius_m * wide * buffers.focal / z, 0.9 * width / WIDTH) / 2
        reach = int(3 * sigma) + 1
        y0, x0 = max(int(row) - reach, 0), max(int(column) - reach, 0)
        window = (slice(None), slice(y0, int(row) + reach), slice(x0, int(column) + reach))
        part = image[window]
        ys = (np.arange(part.shape[1], dtype="f4") + (y0 + 0.5 - row)) / sigma
        xs = (np.arange(part.shape[2], dtype="f4") + (x0 + 0.5 - column)) / sigma
        spot = np.exp(-0.5 * ys * ys)[:, None] * np.exp(-0.5 * xs * xs)
        strength = (1.2 if street.attributes["light"] == "night" else 0.7) * math.exp(-fade * z / 2)
        part += rgb(lamp.colour) * (strength * spot)


def _precipitation(image: Array, street: Street) -> Array:
    weather = street.attributes["weather"]
    if weather not in ("rain", "snow"):
        return image
    rng = np.random.default_rng([street.seed, 2])
    height, width = image.shape[1:]
    k = width // WIDTH
    n, size = (60, (6, 1)) if weather == "rain" else (85, (1, 1))
    y, x = rng.random((2, n)) * np.array([[HEIGHT], [WIDTH]])
    alpha = np.zeros((height, width), "f4")
    for dy in range(size[0] * k):
        for dx in range(size[1] * k):
            rows = (y * k).astype(int) + dy
            columns = (x * k - dy * 0.25).astype(int) + dx
            alpha[rows % height, columns % width] = 0.2 if weather == "rain" else 0.75
    if weather == "snow":
        big = (y[:12] * k).astype(int), (x[:12] * k).astype(int)
        for dy, dx in np.ndindex(2 * k, 2 * k):
            alpha[(big[0] + dy) % height, (big[1] + dx) % width] = 0.6
    air = _air(street.attributes)
    bright = np.maximum(rgb(air.horizon) * 1.5, 0.15)
    return mix(image, np.maximum(image, bright), alpha)


def develop(colour: Array, rng: np.random.Generator, style: Style) -> NDArray[np.uint8]:
    """Convert linear colour to display pixels with a model of lens and sensor."""
    height, width = colour.shape[1:]
    if style == "plain":
        image = np.sqrt(np.clip(_blur(colour, 0.12), 0, 1))
        image += 0.02 * (_grain(rng, height, width) - 0.5)
        return (np.clip(image, 0, 1) * 255 + 0.5).astype("u1")
    x, y = camera_rays(width, height)[:2]
    vignette = 1 - rng.uniform(0.3, 0.8) * (x * x + y * y)
    balance = np.exp(rng.normal(0, [0.08, 0.03, 0.12])) * np.exp(rng.normal(0.05, 0.28))
    exposed = _blur(_blur(colour, 0.22), rng.uniform(0.1, 0.25)) * vignette * rgb(tuple(balance))
    noise = rng.standard_normal(colour.shape, dtype="f4") * rng.uniform(0.012, 0.04)
    image = np.clip(0.04 + 0.93 * np.clip(exposed, 0, None) ** 0.55 + noise, 0, 1)
    file = io.BytesIO()
    pixels = (image * 255 + 0.5).astype("u1").transpose(1, 2, 0)
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(35, 70)))
    return np.asarray(Image.open(file)).transpose(2, 0, 1).copy()


def _grain(rng: np.random.Generator, height: int, width: int) -> Array:
    """Return uniform noise from a random offset of the table, ten times as fast as sampling."""
    start = int(rng.integers(1 << 16))
    return np.take(noise_table(), np.arange(start, start + height * width), mode="wrap").reshape(
        height, width
    )


def _blur(image: Array, side: float) -> Array:
    """Blur with the kernel (side, 1 - 2 side, side) along both axes; edges are repeated."""
    for axis in (1, 2):
        padded = np.pad(image, [(0, 0), *((1, 1) if a == axis else (0, 0) for a in (1, 2))], "edge")
        n = image.shape[axis]
        before, after = (np.take(padded, range(s, s + n), axis) for s in (0, 2))
        image = image * (1 - 2 * side) + (before + after) * side
    return image
