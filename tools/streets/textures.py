"""Procedural textures of solids, as functions of ray hits."""

from __future__ import annotations

import random
from functools import cache

import numpy as np

from tools.streets.rays import Array, Colour, Mask, Paint, RayHit, Spot, Texture, rgb


@cache
def noise_table() -> Array:
    """Return the table of 65,536 uniform random numbers that all noise is read from."""
    return np.random.default_rng(0).random(1 << 16, dtype="f4")


def noise(u: Array, v: Array) -> Array:
    """Return noise in 0..1 that is constant on the unit cells of (u, v)."""
    cells = np.floor(u).astype("i4") * 157 + np.floor(v).astype("i4") * 7919
    table: Array = noise_table()[cells & 0xFFFF]
    return table


def soft_noise(u: Array, v: Array) -> Array:
    """Return value noise: `noise` at the corners of a cell, interpolated bilinearly."""
    fu, fv = fraction(u), fraction(v)
    top = mix(noise(u, v), noise(u + 1, v), fu)
    return mix(top, mix(noise(u, v + 1), noise(u + 1, v + 1), fu), fv)


def mix(a: Array, b: Array | float, weight: Array | Mask) -> Array:
    """Blend linearly from a (weight 0) to b (weight 1)."""
    return a + (b - a) * weight


def fraction(value: Array) -> Array:
    """Return value - floor(value), in 0..1."""
    return value - np.floor(value)


def glow_paint(colour: Colour) -> Paint:
    """Return the texture of a surface that emits its colour."""
    return lambda hit: Texture(rgb(colour) * np.ones_like(hit.depth), rgb(colour))


def facade_paint(
    look: random.Random,
    wall: Colour,
    ground: float,
    height: float,
    dark: bool,
    snowy: bool,
    grain: float,
) -> Paint:
    """Return the texture of a facade: rows of windows, some lit in the dark, above a shop front."""
    wide, tall = look.uniform(1.8, 3.4), look.uniform(2.6, 3.3)
    glass = look.uniform(0.3, 0.6)
    shop = look.choice(((0.3, 0.05, 0.05), (0.05, 0.12, 0.2), (0.08, 0.2, 0.12), wall))
    shift, share_lit = look.randrange(1000), look.uniform(0.15, 0.5)

    def paint(hit: RayHit) -> Texture:
        x, y, z = hit.points
        sideways = np.abs(hit.normal[0]) > 0.5
        u, v = np.where(sideways, z, x), ground - y
        # Windows narrower than about two pixels fade into their mean.
        stride = np.where(sideways, hit.depth**2 / np.maximum(np.abs(x), 1), hit.depth) / 60
        sharp = np.clip(1.6 - 2 * stride / wide, 0, 1)
        in_u, in_v = fraction(u / wide), fraction(v / tall)
        is_shop = v < tall
        pane = (np.abs(in_u - 0.5) < np.where(is_shop, 0.42, glass / 2)) & (
            np.abs(in_v - 0.5) < np.where(is_shop, 0.3, 0.27)
        )
        weight = mix(np.full_like(u, 0.2), pane, sharp)
        rough = 1 - grain / 2 + grain * noise(u * 2.5 + shift, v * 4)
        walls = np.where(is_shop, rgb(shop), rgb(wall)) * rough
        walls *= np.where(v > height - 0.6, 0.6, 1)
        if snowy:
            walls = np.where((v > height - 0.7) | (in_v < 0.1), np.float32(0.8), walls)
        colour = mix(walls, rgb((0.05, 0.065, 0.08)), weight)
        if not dark:
            return Texture(colour)
        lit = noise(u / wide + shift, v / tall + shift) < share_lit
        return Texture(colour, rgb((0.75, 0.5, 0.22)) * (weight * lit))

    return paint


def body_paint(
    spot: Spot, ground: float, waist: float, paint: Colour, lights: Colour, glow: float
) -> Paint:
    """Return the texture of a car's body: lights and number plates at the ends, wheels beside."""

    def texture(hit: RayHit) -> Texture:
        u = np.abs(hit.points[0] - spot.x) / spot.half_x
        v = ground - hit.points[1]
        along = np.abs(hit.points[2] - spot.z) - spot.half_z * 0.62
        end = np.abs(hit.normal[2]) > 0.5
        lamp = end & (u > 0.66) & (v > waist - 0.4) & (v < waist - 0.15)
        plate = end & (u < 0.28) & (v > 0.42) & (v < 0.56)
        dark = (v < 0.4) & ~plate | ((along**2 + (v - 0.3) ** 2 < 0.1) & ~end)
        colour = np.where(dark, np.float32(0.015), rgb(paint))
        colour = np.where(plate, rgb((0.7, 0.65, 0.4)), np.where(lamp, rgb(lights) / 2, colour))
        return Texture(colour, rgb(lights) * (glow * lamp).astype("f4") if glow else None)

    return texture


def glass_paint(spot: Spot, waist_y: float, height: float, paint: Colour) -> Paint:
    """Return the texture of a car's cabin: panes between pillars."""

    def texture(hit: RayHit) -> Texture:
        end = np.abs(hit.normal[2]) > 0.5
        x, z = hit.points[0] - spot.x, hit.points[2] - spot.z
        across = np.where(end, x / spot.half_x, z / spot.half_z)
        v = (waist_y - hit.points[1]) / height
        pane = (np.abs(across) < 0.86) & (v > 0.08) & (v < 0.8)
        return Texture(np.where(pane, rgb((0.04, 0.055, 0.07)) + 0.05 * v, rgb(paint)))

    return texture


def leaf_paint(shift: float, leaf: Colour, holes: float) -> Paint:
    """Return the texture of clumps of leaves; holes: share of the clumps that are left out."""

    def texture(hit: RayHit) -> Texture:
        x, y, z = hit.points
        clumps = noise((x + z) * 3 + shift, y * 3)
        colour = rgb(leaf) * (0.45 + 1.1 * clumps)
        return Texture(colour, None, clumps > holes if holes else None)

    return texture


def fence_paint(ground: float, top_m: float, colour: Colour) -> Paint:
    """Return the texture of a fence: bars between two rails, with holes."""

    def texture(hit: RayHit) -> Texture:
        v = ground - hit.points[1]
        bars = fraction(hit.points[2] * 2.5) < 0.55
        return Texture(
            rgb(colour) * (0.8 + 0.4 * bars), None, bars | (v > top_m - 0.15) | (v < 0.25)
        )

    return texture


def tyre_paint(hub_y: float, hub_z: float) -> Paint:
    """Return the texture of a tyre: a ring with a hole."""

    def texture(hit: RayHit) -> Texture:
        radius = np.hypot(hit.points[1] - hub_y, hit.points[2] - hub_z)
        ring = (radius < 0.35) & (radius > 0.23) | (np.abs(hit.normal[2]) > 0.5)
        return Texture(np.full_like(hit.points, 0.02), None, ring)

    return texture
