"""The plan of a street: its objects, placed by the random streams of a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml

from tools.streets import textures
from tools.streets.rays import Camera, Colour, Paint, Shape, Solid, Spot, Surface, Vector

Style = Literal["plain", "shifted"]


class Lamp(NamedTuple):
    """A light with a halo: world position, colour, radius of the halo in metres."""

    position: Vector
    colour: Colour
    radius_m: float


class _Palette(NamedTuple):
    facades: Sequence[Colour]
    cars: Sequence[Colour]
    clothes: Sequence[Colour]
    leaves: Sequence[Colour]
    road: Colour
    pavement: Colour
    grain: float


@cache
def looks() -> Mapping[str, Any]:
    """Return the content of looks.yaml: palettes and the light of the sky."""
    file = resources.files("tools.streets").joinpath("looks.yaml")
    content: Mapping[str, Any] = yaml.safe_load(file.read_text("utf-8"))
    return content


@cache
def _palette(style: Style) -> _Palette:
    palettes = looks()["palettes"]
    clothes = palettes["plain"]["clothes"]
    if style == "shifted":
        clothes = [[0.6 * part + 0.08 for part in colour] for colour in clothes]
    return _Palette(**{**palettes[style], "clothes": clothes})


@dataclass
class Street:
    """Camera, solids, shadows and lamps of one scene.

    Attributes:
        attributes: Values of all scene attributes.
        seed: Seed of the random streams.
        style: Palette and textures.
        solids: All objects.
        shadows: Rectangles of the ground under cars and people.
        lamps: Lights with a halo.
        taken: Rectangles of the ground that are occupied.
        reserved: Those of them that must stay visible.
    """

    attributes: Mapping[str, str]
    seed: int
    style: Style
    solids: list[Solid] = field(default_factory=list)
    shadows: list[Spot] = field(default_factory=list)
    lamps: list[Lamp] = field(default_factory=list)
    taken: list[Spot] = field(default_factory=list)
    reserved: list[Spot] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.palette = _palette(self.style)
        self.dark = self.attributes["light"] != "day"
        self.snowy = self.attributes["weather"] == "snow"
        self.has_crossing = self.attributes["layout"] == "intersection"
        # Roof heights per 2 m of z on each side, for the shadows on the road.
        self.skyline = np.zeros((2, 128), "f4")
        self.look = random.Random(f"{self.seed} look {self.style}")
        self.rng = random.Random(f"{self.seed} geometry")
        traffic = random.Random(f"{self.seed} traffic")
        # Not every street has room for the required cars and people; then another one is tried.
        while True:
            self._lay_road(self.rng)
            if self._required_cars_and_people(traffic):
                break
            for placed in (self.solids, self.shadows, self.lamps, self.taken, self.reserved):
                placed.clear()
        self._more_cars_and_people(traffic)
        for side in (0, 1):
            self._houses(side, green=self.rng.random() < 0.25)
            self._furniture(side)
        if self.has_crossing:
            self._traffic_lights()

    def _lay_road(self, rng: random.Random) -> None:
        self.camera = Camera(
            rng.uniform(1.4, 1.6), math.radians(rng.gauss(1, 1.2)), math.radians(rng.gauss(0, 2))
        )
        lane = rng.uniform(3.0, 3.4)
        self.own_x = rng.uniform(-0.5, 0.5)
        self.oncoming_x = self.own_x + lane
        self.middle_x = self.own_x + lane / 2
        bays = [2.1 * (rng.random() < 0.7), 2.1 * (rng.random() < 0.7)]
        self.edges = (self.own_x - lane / 2 - bays[0], self.oncoming_x + lane / 2 + bays[1])
        pavements = rng.uniform(2.2, 3.6), rng.uniform(2.2, 3.6)
        self.fronts = (self.edges[0] - pavements[0], self.edges[1] + pavements[1])
        self.kerb_m = rng.uniform(0.1, 0.15)
        crossing_z = rng.uniform(9, 15)
        self.crossing = (crossing_z, crossing_z + rng.uniform(7, 10))

    def blocked(self, spot: Spot) -> bool:
        """Return whether a spot is taken or would hide an object that must stay visible."""
        return any(map(spot.overlaps, self.taken)) or any(map(spot.hides, self.reserved))

    def place(self, spot: Spot, reserve: bool = False) -> bool:
        """Take a spot and return whether it was free.

        reserve: Require that the spot is in the image and unobstructed, and keep it so.
        """
        if self.blocked(spot):
            return False
        if reserve:
            off_axis = abs(spot.x / spot.z - math.tan(self.camera.yaw_rad))
            if off_axis > 0.45 or any(other.hides(spot) for other in self.taken):
                return False
            self.reserved.append(spot)
        self.taken.append(spot)
        return True

    def add(
        self,
        spot: Spot,
        bottom_m: float,
        top_m: float,
        label: Surface,
        colour: Colour,
        shape: Shape = "box",
        paint: Paint | None = None,
    ) -> None:
        """Add a solid given by its rectangle on the ground and its heights above the road."""
        ground = self.camera.height_m
        low = spot.x - spot.half_x, ground - top_m, spot.z - spot.half_z
        high = spot.x + spot.half_x, ground - bottom_m, spot.z + spot.half_z
        self.solids.append(Solid(low, high, label, colour, shape, paint))

    def in_crossing(self, z: float, margin: float = 0.0) -> bool:
        """Return whether z lies in the cross street, extended by a margin in metres."""
        return self.has_crossing and self.crossing[0] - margin < z < self.crossing[1] + margin

    # -- traffic

    def _more_cars_and_people(self, rng: random.Random) -> None:
        traffic, people = self.attributes["traffic"], self.attributes["pedestrians"]
        near, n_cars = (8.0, 12) if traffic == "dense" else (16.0, rng.choice((0, 1)))
        for _ in range(n_cars if traffic != "empty" else 0):
            self._try(rng, 4, partial(self._car, rng, near, 30.0, (0, 1, 2, 3)))
        n_people = 6 if people == "many" else rng.choice((0, 1))
        for _ in range(n_people if people != "none" else 0):
            self._try(rng, 4, partial(self._pedestrian, rng, 9.0, 22.0))
        if rng.random() < 0.3 and "cyclists" not in self.attributes:
            self._try(rng, 6, partial(self._cyclist, rng))

    def _required_cars_and_people(self, rng: random.Random) -> bool:
        """Place the cars and people that the attributes require; return whether they fit."""
        traffic, people = self.attributes["traffic"], self.attributes["pedestrians"]
        cars: dict[str, tuple[tuple[int, ...], ...]] = {
            "empty": (),
            "light": ((0, 1, 2, 3),),
            "dense": ((0,), (1,), (2, 3)),
        }
        start, spread = (7.0, 3.0) if traffic == "dense" else (11.5, 7.0)
        n_cars = sum(
            self._try(rng, 40, partial(self._car, rng, start, spread, lanes, reserve=True))
            for lanes in cars[traffic]
        )
        start, spread = (6.5, 4.5) if people == "many" else (8.0, 6.0)
        place = partial(self._pedestrian, rng, start, spread, reserve=True)
        wanted = {"none": 0, "few": 1, "many": 5}[people]
        n_people = sum(self._try(rng, 40, place) for _ in range(wanted))
        if self.attributes.get("cyclists") == "some":
            cyclist = partial(self._cyclist, rng, spread=8.0, reserve=True)
            if not self._try(rng, 40, cyclist):
                return False
        # A street without parking bays has no room for the third car of dense traffic.
        return n_cars >= min(len(cars[traffic]), 2) and n_people >= min(wanted, 4)

    @staticmethod
    def _try(rng: random.Random, n_tries: int, place: Callable[[], bool]) -> bool:
        return any(place() for _ in range(n_tries))

    def _car(
        self,
        rng: random.Random,
        near: float,
        spread: float,
        lanes: Sequence[int],
        reserve: bool = False,
    ) -> bool:
        """Place a car in one of the lanes: 0 ahead, 1 oncoming, 2 parked left, 3 parked right."""
        lane, z = rng.choice(lanes), near + spread * rng.random()
        parked_x = self.edges[0] + 1, self.edges[1] - 1
        x = (self.own_x, self.oncoming_x, *parked_x)[lane] + rng.uniform(-0.15, 0.15)
        bay = (lane == 2 and self.own_x - x > 2) or (lane == 3 and x - self.oncoming_x > 2)
        if lane >= 2 and (not bay or self.in_crossing(z, 5)):
            return False
        half_x, half_z = rng.uniform(0.82, 0.92), rng.uniform(1.9, 2.3)
        kind = rng.random()
        spot = Spot(x, z + half_z, half_x, half_z)
        if not self.place(spot, reserve):
            return False
        self._build_car(spot, kind, rear=lane in (0, 2), lit=lane < 2)
        return True

    def _build_car(self, spot: Spot, kind: float, rear: bool, lit: bool) -> None:
        x, z, half_x, half_z = spot.x, spot.z, spot.half_x, spot.half_z
        paint = self.look.choice(self.palette.cars)
        waist, roof = (1.0, 2.1) if kind > 0.85 else (0.9, 1.45)
        self.shadows.append(Spot(x, z, half_x + 0.15, half_z + 0.2))
        lights = (0.9, 0.02, 0.01) if rear else (1.0, 0.95, 0.75)
        glow = (1.0 if rear else 2.5) if lit and self.dark else 0.0
        body = textures.body_paint(spot, self.camera.height_m, waist, paint, lights, glow)
        self.add(Spot(x, z, half_x - 0.1, half_z - 0.5), 0, 0.3, Surface.CAR, (0.01, 0.01, 0.01))
        self.add(spot, 0.25, waist, Surface.CAR, paint, paint=body)
        back = half_z * (0.98 if kind > 0.4 else 0.7)
        front = half_z * (0.8 if kind > 0.85 else 0.35)
        ends = (z - back, z + front) if rear else (z - front, z + back)
        cabin = Spot(x, sum(ends) / 2, half_x - 0.1, (ends[1] - ends[0]) / 2)
        glass = textures.glass_paint(cabin, self.camera.height_m - waist, roof - waist, paint)
        self.add(cabin, waist, roof, Surface.CAR, paint, paint=glass)
        if glow:
            for side in (-1, 1):
                place = (x + side * (half_x - 0.2), self.camera.height_m - 0.7, z - half_z)
                self.lamps.append(Lamp(place, lights, 0.3 if rear else 0.55))

    def _pedestrian(
        self, rng: random.Random, near: float, spread: float, reserve: bool = False
    ) -> bool:
        z = near + spread * rng.random()
        side = rng.choice((0, 1))
        on_road = rng.random() < (0.6 if self.in_crossing(z, 2) else 0.25 if reserve else 0.08)
        if on_road:
            x, floor_m = rng.uniform(self.edges[0] + 0.5, self.edges[1] - 0.5), 0.0
        else:
            x = rng.uniform(*sorted((self.edges[side], self.fronts[side])))
            floor_m = 0.0 if self.in_crossing(z) else self.kerb_m
        if not self.place(Spot(x, z, 0.3, 0.25), reserve):
            return False
        self.shadows.append(Spot(x, z, 0.35, 0.25))
        self._person(
            x, z, floor_m, rng.uniform(0.92, 1.08), Surface.PEDESTRIAN, rng.uniform(0.2, 0.27)
        )
        return True

    def _person(
        self, x: float, z: float, floor_m: float, size: float, label: Surface, shoulder_m: float
    ) -> None:
        trousers, coat = self.look.choices(self.palette.clothes, k=2)
        skin = self.look.choice(((0.5, 0.3, 0.2), (0.25, 0.13, 0.08), (0.6, 0.38, 0.28)))

        def part(half_x: float, half_z: float, low: float, high: float, colour: Colour) -> None:
            heights = floor_m + size * low, floor_m + size * high
            shape: Shape = "ellipsoid" if low > 1.4 else "cylinder"
            self.add(Spot(x, z, half_x, half_z), *heights, label, colour, shape)

        part(0.16, 0.14, 0.0, 0.85, trousers)
        part(shoulder_m, 0.16, 0.8, 1.48, coat)
        part(0.12, 0.12, 1.46, 1.76, skin)

    def _cyclist(self, rng: random.Random, spread: float = 16.0, reserve: bool = False) -> bool:
        z, lane = 6 + spread * rng.random(), rng.choice((self.own_x - 0.9, self.oncoming_x + 1.0))
        if not self.place(Spot(lane, z, 0.4, 0.9), reserve):
            return False
        ground = self.camera.height_m
        self.shadows.append(Spot(lane, z, 0.3, 0.9))
        for hub_z in (z - 0.52, z + 0.52):
            tyre = textures.tyre_paint(ground - 0.34, hub_z)
            wheel = Spot(lane, hub_z, 0.035, 0.34)
            self.add(wheel, 0, 0.68, Surface.BICYCLIST, (0.02, 0.02, 0.02), paint=tyre)
        frame = self.look.choice(self.palette.cars)
        self.add(Spot(lane, z, 0.03, 0.4), 0.45, 0.6, Surface.BICYCLIST, frame)
        self.add(Spot(lane, z + 0.45, 0.28, 0.03), 0.95, 1.0, Surface.BICYCLIST, (0.05, 0.05, 0.05))
        self._person(lane, z, 0.12, 0.97, Surface.BICYCLIST, 0.22)
        return True

    # -- static objects

    def _houses(self, side: int, green: bool) -> None:
        rng, z, outward = self.rng, -6.0, (-1, 1)[side]
        while z < 140:
            length = rng.uniform(7, 15) * (1 + max(z, 0) / 50)
            height = rng.uniform(2.6, 4) if green and z < 50 else rng.uniform(5.5, 14)
            setback = rng.choice((0, 0, 0, rng.uniform(1, 4)))
            gap = rng.uniform(1, 5) if rng.random() < 0.2 else 0.0
            depth = 12.0
            if self.has_crossing:
                start, end = self.crossing
                if z >= start and z < end:
                    z = end + 1.5
                if z < start:
                    length = min(length, max(start - 1.5 - z, 0.5))
                    gap = 0.0 if start - z - length < 4 else gap
                depth = 45.0
            front = self.fronts[side] + outward * setback
            x, middle = front + outward * depth / 2, z + length / 2
            if green and z < 50:
                self._tree(front + outward * rng.uniform(0.5, 2), middle, rng.uniform(2.2, 3.2))
                self._hedge(front, middle, length)
            else:
                self._house(x, middle, depth / 2, length / 2, height)
                first, last = (int(np.clip(v / 2, 0, 127)) for v in (z, z + length))
                self.skyline[side, first : last + 1] = height
            if setback > 1 or green:
                self._fence(self.fronts[side] + outward * 0.1, middle, length / 2)
            z += length + gap

    def _house(self, x: float, z: float, half_x: float, half_z: float, height: float) -> None:
        wall = self.look.choice(self.palette.facades)
        paint = textures.facade_paint(
            self.look, wall, self.camera.height_m, height, self.dark, self.snowy, self.palette.grain
        )
        self.add(Spot(x, z, half_x, half_z), 0, height, Surface.BUILDING, wall, paint=paint)

    def _hedge(self, front: float, z: float, length: float) -> None:
        leaf = self.look.choice(self.palette.leaves)
        outward = math.copysign(2.5, front)
        paint = textures.leaf_paint(self.rng.uniform(0, 500), leaf, holes=0.0)
        self.add(
            Spot(front + 2 * outward, z, 2.5, length / 2), 0, 2.2, Surface.TREE, leaf, paint=paint
        )

    def _fence(self, x: float, z: float, half_z: float) -> None:
        colour = self.look.choice(((0.05, 0.06, 0.05), (0.45, 0.42, 0.38), (0.2, 0.12, 0.06)))
        top_m = self.rng.uniform(1.0, 1.5)
        paint = textures.fence_paint(self.camera.height_m, top_m, colour)
        self.add(Spot(x, z, 0.04, half_z), 0, top_m, Surface.FENCE, colour, paint=paint)

    def _tree(self, x: float, z: float, radius: float) -> None:
        leaf, trunk = self.look.choice(self.palette.leaves), self.rng.uniform(2.0, 3.0)
        if not self.place(Spot(x, z, 0.25, 0.25)):
            return
        paint = textures.leaf_paint(self.rng.uniform(0, 500), leaf, holes=0.16)
        self.add(
            Spot(x, z, 0.17, 0.17), 0, trunk + 0.6, Surface.TREE, (0.09, 0.06, 0.04), "cylinder"
        )
        top = trunk + radius * self.rng.uniform(1.6, 2.2)
        self.add(Spot(x, z, radius, radius), trunk, top, Surface.TREE, leaf, "ellipsoid", paint)

    def _furniture(self, side: int) -> None:
        rng, inward = self.rng, (1, -1)[side]
        x = self.edges[side] - inward * 0.5
        lamp_z, has_trees = rng.uniform(5, 20), rng.random() < 0.45
        for z in (lamp_z, lamp_z + 24):
            if not self.in_crossing(z, 1) and self.place(Spot(x, z, 0.15, 0.15)):
                self._street_lamp(x, z, inward)
        for z in (rng.uniform(6, 11), rng.uniform(14, 30)):
            if not self.in_crossing(z, 1) and self.place(Spot(x, z, 0.4, 0.2)):
                self._sign(x, z)
        if has_trees:
            for z in (rng.uniform(7, 12), rng.uniform(16, 24), rng.uniform(28, 36)):
                if not self.in_crossing(z, 3):
                    self._tree(x - inward * 0.3, z, rng.uniform(1.3, 2.1))
        if rng.random() < 0.15 and not self.has_crossing:
            rail = Spot(self.edges[side] - inward * 0.15, 14, 0.05, 6)
            if self.place(rail):
                self._fence(rail.x, rail.z, rail.half_z)

    def _street_lamp(self, x: float, z: float, inward: int) -> None:
        grey, top_m, arm_m = (0.12, 0.13, 0.13), self.rng.uniform(5, 6.5), 0.8
        lit: Paint | None = textures.glow_paint((1.6, 1.1, 0.5)) if self.dark else None
        self.add(Spot(x, z, 0.1, 0.1), 0, top_m, Surface.POLE, grey, "cylinder")
        self.add(
            Spot(x + inward * arm_m / 2, z, arm_m / 2, 0.06), top_m - 0.1, top_m, Surface.POLE, grey
        )
        head_x = x + inward * (arm_m + 0.3)
        self.add(Spot(head_x, z, 0.35, 0.15), top_m - 0.2, top_m, Surface.POLE, grey, paint=lit)
        if self.dark:
            place = (head_x, self.camera.height_m - top_m + 0.2, z)
            self.lamps.append(Lamp(place, (1.0, 0.72, 0.35), 1.2))

    def _sign(self, x: float, z: float) -> None:
        colours = ((0.6, 0.03, 0.03), (0.03, 0.12, 0.5), (0.75, 0.75, 0.7), (0.7, 0.5, 0.02))
        colour, half = self.look.choice(colours), self.rng.uniform(0.33, 0.5)
        self.add(Spot(x, z, 0.05, 0.05), 0, 2.2, Surface.POLE, (0.25, 0.25, 0.25), "cylinder")
        self.add(Spot(x, z - 0.05, half, 0.03), 2.0, 2.0 + 2 * half, Surface.SIGN, colour)

    def _traffic_lights(self) -> None:
        z, shine = self.crossing[0] - 0.6, self.rng.choice(((1.5, 0.1, 0.05), (0.1, 1.3, 0.5)))
        for x in (self.edges[0] - 0.4, self.edges[1] + 0.4):
            if not self.place(Spot(x, z, 0.2, 0.15)):
                continue
            self.add(Spot(x, z, 0.07, 0.07), 0, 2.3, Surface.POLE, (0.05, 0.05, 0.05), "cylinder")
            self.add(Spot(x, z, 0.2, 0.12), 2.2, 3.1, Surface.SIGN, (0.02, 0.02, 0.02))
            low = 2.75 if shine[0] > 1 else 2.3
            self.add(
                Spot(x, z - 0.13, 0.12, 0.02),
                low,
                low + 0.25,
                Surface.SIGN,
                shine,
                paint=textures.glow_paint(shine),
            )
            if self.dark:
                spot = (x, self.camera.height_m - low, z - 0.2)
                self.lamps.append(Lamp(spot, (min(shine[0], 1), shine[1] / 1.5, shine[2]), 0.35))
