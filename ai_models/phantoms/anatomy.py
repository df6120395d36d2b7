"""Where things lie in the procedural patient: a seed in, an ordered list of painted parts out.

The patient is drawn in a canonical frame, LPS in mm, with x = 0 in the midplane (x grows to the patient's
left), y = 0 in the middle of the chest (y grows to the back) and z = 0 a little above the heart's middle
(z grows to the head). The carina is at z = 35, the lungs' apices near 165, the domes of the diaphragm
near -60, the pelvis below -300. The body is not symmetric: the heart and the stomach are left, the liver
is right and lifts that dome, the lungs differ in size. A program that swaps sides is caught by that.

The shapes are made up from textbook proportions. They hold no patient's data and claim no clinical realism.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ai_models.phantoms.shapes import (
    Bounds,
    Capsule,
    Column,
    Drum,
    Ellipsoid,
    Floats,
    Part,
    Point,
    Solid,
)


class Label(IntEnum):
    """What a voxel of a phantom is. Vessels within a lung count as that lung, airway walls as background."""

    BACKGROUND = 0
    LEFT_LUNG = 1
    RIGHT_LUNG = 2
    TRACHEA = 3
    BONE = 4
    NODULE = 5


LUNGS = (Label.LEFT_LUNG, Label.RIGHT_LUNG)
SKIN = (
    (-420.0, 165.0, 100.0, 4.0),
    (-300.0, 160.0, 103.0, 2.0),
    (-180.0, 152.0, 108.0, 0.0),
    (-60.0, 163.0, 117.0, 0.0),
    (60.0, 172.0, 117.0, 0.0),
    (130.0, 188.0, 105.0, 4.0),
    (165.0, 190.0, 88.0, 10.0),
    (185.0, 120.0, 75.0, 12.0),
    (205.0, 66.0, 66.0, 10.0),
    (300.0, 62.0, 66.0, 5.0),
)
CHEST = (
    (-175.0, 128.0, 84.0, 2.0),
    (-100.0, 132.0, 88.0, 0.0),
    (-30.0, 133.0, 89.0, 0.0),
    (40.0, 124.0, 84.0, 2.0),
    (95.0, 104.0, 70.0, 8.0),
    (135.0, 76.0, 50.0, 16.0),
    (158.0, 50.0, 32.0, 22.0),
    (170.0, 26.0, 14.0, 26.0),
)
SPINE_Y = 60.0


@dataclass(frozen=True, slots=True)
class Nodule:
    """A nodule in a lung: `centre_mm` `(x, y, z)` LPS, `diameter_mm`, and its material's `hu`."""

    centre_mm: Point
    diameter_mm: float
    hu: float = 40.0


@dataclass(frozen=True, slots=True)
class Habitus:
    """What differs from patient to patient: all lengths mm, all materials HU."""

    scale: Point
    fat_mm: float
    lung_hu: float
    blood_hu: float
    liver_hu: float
    dome_right: float
    dome_left: float
    heart: float

    @classmethod
    def draw(cls, rng: np.random.Generator, contrast: bool) -> Habitus:
        """Draws one patient; `contrast` fills the vessels with contrast medium."""
        return cls(
            scale=_point(rng.uniform(0.92, 1.06, 3)),
            fat_mm=rng.uniform(8, 26),
            lung_hu=rng.uniform(-890, -790),
            blood_hu=rng.uniform(150, 320) if contrast else rng.uniform(35, 50),
            liver_hu=rng.uniform(90, 125) if contrast else rng.uniform(48, 66),
            dome_right=rng.uniform(-68, -48),
            dome_left=rng.uniform(-84, -72),
            heart=rng.uniform(0.92, 1.1),
        )


@dataclass(frozen=True, slots=True)
class Lung:
    """One lung: the inside of the chest, less the mediastinum, less the heart, above its own dome."""

    side: int  # +1 left, -1 right
    chest: Column
    heart: Ellipsoid
    dome_z: float

    @property
    def bounds(self) -> Bounds:
        low, high = self.chest.bounds
        near, far = sorted((5.0 * self.side, 200.0 * self.side))
        return (near, low[1], low[2]), (far, high[1], high[2])

    def depth(self, x: Floats, y: Floats, z: Floats) -> Floats:
        near = np.interp(z, (-150, -60, 0, 50, 120, 165), (25, 24, 20, 26, 22, 14))
        behind_spine = np.interp(y, (30, 52), (0, 12))  # the spine pushes the pleura aside
        in_front = np.interp(y, (-75, -50, -20), (0.35, 0.6, 1.0))  # the lungs nearly meet there
        medial = self.side * x - (near * in_front + behind_spine).astype(np.float32)
        u = (x - self.side * np.float32(72)) / np.float32(64)
        v = (y - np.float32(4)) / np.float32(68)
        fall = np.exp(-((u * u + v * v) ** np.float32(1.4)))
        floor = np.float32(self.dome_z - 78) + np.float32(78) * fall
        depth = np.minimum(self.chest.depth(x, y, z), medial)
        depth = np.minimum(depth, -self.heart.depth(x, y, z) - np.float32(3))
        return np.minimum(depth, z - floor).astype(np.float32)


def lungs(habitus: Habitus) -> tuple[Lung, Lung]:
    """The left and the right lung of one patient, in canonical coordinates."""
    chest = Column(CHEST, power=2.3)
    radii = (58.0 * habitus.heart, 47.0 * habitus.heart, 55.0 * habitus.heart)
    heart = Ellipsoid((28.0, -22.0, -32.0), radii, turn_deg=-28.0)
    return (
        Lung(+1, chest, heart, habitus.dome_left),
        Lung(-1, chest, heart, habitus.dome_right),
    )


def patient(
    habitus: Habitus, nodules: Sequence[Nodule], rng: np.random.Generator, *, couch: bool
) -> list[Part]:
    """Every part of one patient in painting order; nodule coordinates are canonical."""
    left, right = lungs(habitus)
    parts = _couch() if couch else []
    parts += _trunk(habitus) + _abdomen(habitus, rng)
    parts += [
        Part(left, habitus.lung_hu, Label.LEFT_LUNG),
        Part(right, habitus.lung_hu, Label.RIGHT_LUNG),
    ]
    parts += _heart_and_great_vessels(left.heart, habitus)
    parts += _spine(rng) + _ribs(rng) + _shoulders(rng)
    for lung in (left, right):
        parts += _lung_vessels(lung, habitus, rng)
    parts += _airways()
    for nodule in nodules:
        radii = tuple(0.5 * nodule.diameter_mm / s for s in habitus.scale)
        solid = Ellipsoid(nodule.centre_mm, (radii[0], radii[1], radii[2]))
        parts.append(Part(solid, nodule.hu, Label.NODULE, only=LUNGS))
    return parts


def draw_nodules(
    habitus: Habitus, count: int, z_range: tuple[float, float], rng: np.random.Generator
) -> tuple[Nodule, ...]:
    """`count` nodules of 5 to 24 mm wholly inside the lungs between two canonical heights.

    Raises ValueError when there is not enough lung in that range.
    """
    sides = lungs(habitus)
    chosen: list[Nodule] = []
    for _ in range(4000):
        if len(chosen) == count:
            break
        lung = sides[int(rng.integers(2))]
        point = np.float32(
            (lung.side * rng.uniform(30, 125), rng.uniform(-80, 80), rng.uniform(*z_range))
        )
        diameter = float(rng.uniform(5, 24))
        room = float(lung.depth(*(point[i : i + 1] for i in range(3)))[0])
        far = all(
            np.linalg.norm(point - np.float32(o.centre_mm)) > (diameter + o.diameter_mm) / 2 + 6
            for o in chosen
        )
        if far and room > 0.55 * diameter + 2:
            hu = (
                float(rng.uniform(-5, 70)) if rng.random() < 0.8 else float(rng.uniform(-600, -450))
            )
            centre = (float(point[0]), float(point[1]), float(point[2]))
            chosen.append(Nodule(centre, diameter, hu))
    if len(chosen) < count:
        raise ValueError(
            f"no room for {count} nodules between z {z_range[0]:.0f} and {z_range[1]:.0f} mm"
        )
    return tuple(chosen)


def _couch() -> list[Part]:
    shell = tuple((z, 210.0, 24.0, 148.0) for z in (-600.0, 400.0))
    return [Part(Column(shell), -150.0), Part(Column(shell, inset=3.0), -930.0)]


def _trunk(habitus: Habitus) -> list[Part]:
    fat = habitus.fat_mm
    cavity = tuple(row for row in SKIN if row[0] <= -60)
    return [
        Part(Column(SKIN, power=2.5), 20.0),
        Part(Column(SKIN, power=2.5, inset=2.0), -105.0),
        Part(Column(SKIN, power=2.4, inset=2.0 + fat), 52.0),
        Part(Column(cavity, power=2.3, inset=16.0 + fat), -95.0),
        Part(Column(CHEST, power=2.3, inset=-2.0), 15.0),
    ]


def _abdomen(habitus: Habitus, rng: np.random.Generator) -> list[Part]:
    top = habitus.dome_right - 4
    spleen = habitus.liver_hu - 8
    parts = [
        Part(Ellipsoid((-58, 2, top - 72), (72, 80, 72)), habitus.liver_hu),
        Part(Ellipsoid((20, -30, top - 55), (60, 40, 34), 12), habitus.liver_hu),
        Part(Ellipsoid((92, 38, habitus.dome_left - 52), (32, 42, 50), 20), spleen),
        Part(Ellipsoid((56, -22, habitus.dome_left - 44), (46, 52, 40), 25), 28.0),
        Part(Ellipsoid((54, -38, habitus.dome_left - 34), (34, 24, 24), 25), -985.0),
    ]
    for side, low in ((1, -188.0), (-1, -200.0)):
        parts.append(Part(Ellipsoid((side * 62.0, 42, low), (26, 24, 52)), habitus.liver_hu - 15))
        parts.append(Part(Ellipsoid((side * 54.0, 38, low), (9, 8, 26)), -60.0))
        parts.append(Part(Capsule((side * 42.0, 52, -190), (side * 55.0, 30, -400), 20, 26), 55.0))
    for _ in range(26):  # loops of bowel, a third of them with gas
        start = np.array((rng.uniform(-105, 105), rng.uniform(-75, 15), rng.uniform(-400, -200)))
        end, radius = start + rng.normal(0, 24, 3), float(rng.uniform(9, 20))
        a, b = _point(start), _point(end)
        parts.append(Part(Capsule(a, b, radius), 35.0))
        if rng.random() < 0.35:
            parts.append(Part(Capsule(a, b, radius - 3), -960.0))
        else:
            parts.append(Part(Capsule(a, b, radius - 4), float(rng.uniform(5, 45))))
    for side in (1, -1):  # wings of the pelvis, hollowed towards the middle
        wing = Ellipsoid((side * 92.0, 22, -352), (38, 62, 58), side * 35.0)
        parts.append(Part(wing, 420.0, Label.BONE))
        hollow = Ellipsoid((side * 78.0, 4, -346), (38, 62, 62), side * 35.0)
        parts.append(Part(hollow, 50.0, Label.BACKGROUND))
    return parts


def _heart_and_great_vessels(heart: Ellipsoid, habitus: Habitus) -> list[Part]:
    blood = habitus.blood_hu
    hx, hy, hz = heart.centre
    rx, ry, rz = heart.radii

    def tube(start: Point, end: Point, radius: float) -> Part:
        return Part(Capsule(start, end, radius), blood)

    return [
        Part(
            Column(((-80, 20, 62, 0), (0, 17, 60, 0), (100, 20, 48, 4), (160, 16, 30, 20))), -30.0
        ),
        Part(Ellipsoid(heart.centre, (rx + 4, ry + 4, rz + 4), heart.turn_deg), -85.0),
        Part(heart, 48.0),
        Part(Ellipsoid((hx + 12, hy - 4, hz - 8), (30, 22, 36), -28), blood),
        Part(Ellipsoid((hx - 26, hy - 4, hz - 2), (24, 22, 32), -28), blood),
        Part(Ellipsoid((hx - 18, hy + 26, hz + 18), (30, 14, 18), 0), blood),
        tube((-2, -20, -5), (-12, -28, 62), 15),
        tube((-12, -28, 62), (8, 6, 80), 13.5),
        tube((8, 6, 80), (22, 38, 62), 12.5),
        tube((22, 38, 62), (22, 40, -90), 12),
        tube((22, 40, -90), (6, 36, -420), 10),
        tube((-30, -18, 20), (-28, -20, 95), 9),
        tube((-26, -4, -60), (-18, 22, -420), 11),
        tube((10, -34, 0), (14, -14, 36), 13),
        tube((14, -14, 34), (40, 2, 36), 10),
        tube((8, -10, 30), (-38, -4, 26), 9),
        tube((-12, -22, 85), (-30, 0, 190), 5),
        tube((6, 0, 85), (28, 4, 190), 5),
        Part(Capsule((4, 26, 200), (6, 32, -95), 7), 38.0),  # oesophagus, with a thread of air
        Part(Capsule((4, 26, 150), (5, 29, 60), 2.0), -700.0),
    ]


def _airways() -> list[Part]:
    carina = (2.0, 12.0, 36.0)
    tubes = (
        Capsule((0.0, 0.0, 230.0), (1.0, 4.0, 150.0), 8.5),
        Capsule((1.0, 4.0, 150.0), carina, 8.5),
        Capsule(carina, (-34.0, 16.0, 6.0), 7.0, 6.0),  # right: steeper, wider
        Capsule(carina, (46.0, 18.0, 12.0), 6.2, 5.4),  # left: longer, flatter
    )
    walls = [Part(_wider(tube, 1.8), 35.0) for tube in tubes]
    return walls + [Part(tube, -985.0, Label.TRACHEA) for tube in tubes]


def _spine(rng: np.random.Generator) -> list[Part]:
    parts: list[Part] = [Part(Column(((-430, 16, 13, SPINE_Y), (300, 14, 12, SPINE_Y))), 75.0)]
    marrow = float(rng.uniform(150, 240))
    for z in np.arange(-425.0, 300.0, 25.0):
        body = (0.0, SPINE_Y, z)
        parts += [
            Part(Ellipsoid((0, SPINE_Y + 27, z - 4), (13, 10, 10)), 380.0, Label.BONE),
            Part(
                Capsule((0, SPINE_Y + 30, z - 4), (0, SPINE_Y + 46, z - 14), 3.5), 430.0, Label.BONE
            ),
        ]
        for side in (1, -1):
            tip = (side * 30.0, SPINE_Y + 26, z + 2)
            root = (side * 10.0, SPINE_Y + 20, z)
            parts.append(Part(Capsule(root, tip, 4.5, 3.5), 430.0, Label.BONE))
            parts.append(Part(Capsule(root, (side * 11.0, SPINE_Y + 8, z), 4.0), 430.0, Label.BONE))
        parts.append(Part(Drum(body, (18, 14.5), 10.5), 480.0, Label.BONE))
        parts.append(Part(Drum(body, (16, 12.5), 8.5), marrow, Label.BONE))
    canal = Column(((-430, 8.5, 7.5, SPINE_Y + 21), (300, 8.5, 7.5, SPINE_Y + 21)))
    return [*parts, Part(canal, 30.0, Label.BACKGROUND)]


def _ribs(rng: np.random.Generator) -> list[Part]:
    chest = Column(CHEST)
    parts: list[Part] = []
    drop = float(rng.uniform(34, 52))
    for level in range(12):
        top = 152.0 - 24.5 * level
        reach = 150.0 if level < 9 else (115.0, 95.0, 60.0)[level - 9]
        turn = np.deg2rad(np.linspace(12, reach, 22))  # from the back around the side
        z = top - drop * (turn / np.pi) ** 1.1 * (1.0 if level else 0.5)
        wide, deep, middle = chest.size_at(z)
        for side in (1, -1):
            x = side * (wide + 6) * np.sin(turn)
            y = middle + (deep + 6) * np.cos(turn)
            points = np.stack((x, y, z), 1)
            bone = [Capsule(_point(a), _point(b), 5.2) for a, b in _steps(points)]
            parts += [Part(piece, 560.0, Label.BONE) for piece in bone]
            parts += [Part(_wider(piece, -2.0), 210.0, Label.BONE) for piece in bone]
    sternum = (Capsule((0, -82, 92), (0, -98, 30), 9), Capsule((0, -98, 30), (0, -101, -38), 8))
    for piece in sternum:
        parts += [Part(piece, 380.0, Label.BONE), Part(_wider(piece, -2.2), 160.0, Label.BONE)]
    return parts


def _shoulders(rng: np.random.Generator) -> list[Part]:
    parts: list[Part] = []
    for side in (1, -1):
        blade = np.array((side * 112.0, 76.0, 60.0)) + rng.normal(0, 3, 3)
        clavicle = (
            (side * 14.0, -62.0, 112.0),
            (side * 70.0, -50.0, 136.0),
            (side * 140.0, 0, 148.0),
        )
        pieces: list[Solid] = [Ellipsoid(_point(blade), (34, 5.5, 56), side * 32.0)]
        pieces += [Capsule(a, b, 6.0) for a, b in _steps(np.array(clavicle))]
        parts += [Part(piece, 480.0, Label.BONE) for piece in pieces]
        head = Ellipsoid((side * 152.0, 14.0, 146.0), (22, 22, 24))
        parts += [Part(head, 520.0, Label.BONE)]
        parts += [Part(Ellipsoid(head.centre, (19, 19, 21)), 190.0, Label.BONE)]
    return parts


def _lung_vessels(lung: Lung, habitus: Habitus, rng: np.random.Generator) -> list[Part]:
    """A random tree from the hilum outwards; the lung keeps its label underneath."""
    label = Label.LEFT_LUNG if lung.side > 0 else Label.RIGHT_LUNG
    hu = 0.5 * habitus.blood_hu + 15
    root = np.array((lung.side * 36.0, 8.0, 20.0))
    parts: list[Part] = []
    branches = [(root, _outwards(lung.side, rng), 5.0) for _ in range(9)]
    while branches:
        start, way, radius = branches.pop()
        end = start + way * float(rng.uniform(14, 30))
        parts.append(
            Part(Capsule(_point(start), _point(end), radius, radius * 0.8), hu, None, only=(label,))
        )
        if radius > 1.3:
            for _ in range(2):
                turned = way + rng.normal(0, 0.5, 3)
                branches.append((end, turned / np.linalg.norm(turned), radius * 0.66))
    return parts


def _outwards(side: int, rng: np.random.Generator) -> np.ndarray:
    way = np.array((side * rng.uniform(0.1, 1.0), rng.normal(0, 0.7), rng.normal(0, 0.9)))
    return way / np.linalg.norm(way)


def _steps(points: np.ndarray) -> list[tuple[Point, Point]]:
    return [(_point(a), _point(b)) for a, b in itertools.pairwise(points)]


def _wider(tube: Capsule, by_mm: float) -> Capsule:
    end = None if tube.end_radius is None else tube.end_radius + by_mm
    return Capsule(tube.start, tube.end, tube.radius + by_mm, end)


def _point(values: np.ndarray) -> Point:
    return float(values[0]), float(values[1]), float(values[2])
