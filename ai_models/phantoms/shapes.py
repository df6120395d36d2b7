"""Solid bodies given by formulas, and the renderer that turns a list of them into voxels.

In: a list of `Part`s (a solid, its HU, its label) and the coordinates of the voxel centres.
Out: HU as float32 and labels as uint8, both `(z, y, x)`.

A solid answers one question: how deep, in mm, does a point lie inside it (negative: outside)? Parts are
painted in order, later over earlier, with an edge one voxel wide, so that a voxel cut by a surface gets a
mixture of both materials (partial volume) and the label of whichever holds more than half of it.
Coordinates are LPS in mm: x grows to the patient's left, y to the back, z to the head.
This module knows no anatomy and no physics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float, float]
Bounds = tuple[Point, Point]
EVERYWHERE: Bounds = ((-np.inf,) * 3, (np.inf,) * 3)
SLAB_SLICES = 8  # rendered at once: the temporaries stay within a processor's cache


class Solid(Protocol):
    """A region of space; points and bounds are `(x, y, z)` in mm."""

    @property
    def bounds(self) -> Bounds:
        """Opposite corners of a box that holds the solid and half a voxel of its edge."""

    def depth(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """Depth in mm inside the surface at broadcastable coordinates; negative outside."""


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """An ellipsoid with axis-parallel `radii`, turned by `turn_deg` about the z axis."""

    centre: Point
    radii: Point
    turn_deg: float = 0.0

    @property
    def bounds(self) -> Bounds:
        wide = max(self.radii[0], self.radii[1]) if self.turn_deg else None
        reach = (wide or self.radii[0], wide or self.radii[1], self.radii[2])
        return _box(self.centre, self.centre, reach)

    def depth(self, x: Floats, y: Floats, z: Floats) -> Floats:
        cos, sin = np.cos(np.deg2rad(self.turn_deg)), np.sin(np.deg2rad(self.turn_deg))
        dx, dy = x - np.float32(self.centre[0]), y - np.float32(self.centre[1])
        u = (cos * dx + sin * dy).astype(np.float32) / np.float32(self.radii[0])
        v = (cos * dy - sin * dx).astype(np.float32) / np.float32(self.radii[1])
        w = (z - np.float32(self.centre[2])) / np.float32(self.radii[2])
        return (1 - np.sqrt(u * u + v * v + w * w)) * np.float32(min(self.radii))


@dataclass(frozen=True, slots=True)
class Capsule:
    """All points nearer than a radius to the segment from `start` to `end`; the radius may taper."""

    start: Point
    end: Point
    radius: float
    end_radius: float | None = None

    @property
    def bounds(self) -> Bounds:
        reach = max(self.radius, self.end_radius or 0.0)
        return _box(self.start, self.end, (reach, reach, reach))

    def depth(self, x: Floats, y: Floats, z: Floats) -> Floats:
        start, axis = np.float32(self.start), np.float32(self.end) - np.float32(self.start)
        length2 = max(float(axis @ axis), 1e-6)
        dx, dy, dz = x - start[0], y - start[1], z - start[2]
        along = np.clip((dx * axis[0] + dy * axis[1] + dz * axis[2]) / np.float32(length2), 0, 1)
        dx, dy, dz = dx - along * axis[0], dy - along * axis[1], dz - along * axis[2]
        taper = (self.radius if self.end_radius is None else self.end_radius) - self.radius
        radius = np.float32(self.radius) + np.float32(taper) * along
        return radius - np.sqrt(dx * dx + dy * dy + dz * dz)


@dataclass(frozen=True, slots=True)
class Drum:
    """An upright elliptic cylinder: a vertebral body."""

    centre: Point
    radii: tuple[float, float]
    half_height: float

    @property
    def bounds(self) -> Bounds:
        return _box(self.centre, self.centre, (*self.radii, self.half_height))

    def depth(self, x: Floats, y: Floats, z: Floats) -> Floats:
        u = (x - np.float32(self.centre[0])) / np.float32(self.radii[0])
        v = (y - np.float32(self.centre[1])) / np.float32(self.radii[1])
        radial = (1 - np.sqrt(u * u + v * v)) * np.float32(min(self.radii))
        return np.minimum(radial, np.float32(self.half_height) - np.abs(z - self.centre[2]))


@dataclass(frozen=True)
class Column:
    """A body of elliptic-like cross-sections whose size changes along z: the skin, the chest's inner wall.

    `table` holds rows `(z, half width, half depth, y of the middle)`, z increasing; outside the first and
    last z there is nothing. `power` 2 is an ellipse; a larger one is squarer. `inset` shrinks it
    everywhere, in mm.
    """

    table: tuple[tuple[float, float, float, float], ...]
    power: float = 2.0
    inset: float = 0.0

    @property
    def bounds(self) -> Bounds:
        rows = np.array(self.table)
        wide, deep = rows[:, 1].max(), np.abs(rows[:, 3]).max() + rows[:, 2].max()
        return ((-wide, -deep, rows[0, 0]), (wide, deep, rows[-1, 0]))

    def size_at(self, z: NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
        """Half width, half depth and middle (mm) at heights `z`; the ends' values beyond them."""
        rows = np.array(self.table)
        wide, deep, middle = (np.interp(z, rows[:, 0], rows[:, i]) for i in (1, 2, 3))
        return (
            (wide - self.inset).astype(np.float32),
            (deep - self.inset).astype(np.float32),
            middle.astype(np.float32),
        )

    def depth(self, x: Floats, y: Floats, z: Floats) -> Floats:
        wide, deep, middle = self.size_at(z)
        wide, deep = np.maximum(wide, 1.0), np.maximum(deep, 1.0)
        u, v = np.abs(x / wide), np.abs((y - middle) / deep)
        if self.power == 2.0:
            radius = np.sqrt(u * u + v * v)
        else:
            radius = (u**self.power + v**self.power) ** np.float32(1 / self.power)
        inside = (1 - radius) * np.minimum(wide, deep)
        ends = np.minimum(z - self.table[0][0], self.table[-1][0] - z)
        return np.minimum(inside, ends.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Part:
    """One material in one place. `label` None leaves the label that is there; `only` limits it to some
    labels.
    """

    solid: Solid
    hu: float
    label: int | None = 0
    only: tuple[int, ...] = field(default=())


def render(
    parts: Sequence[Part],
    x: Floats,
    y: Floats,
    z: Floats,
    *,
    edge_mm: float,
    background_hu: float = -1000.0,
) -> tuple[Floats, NDArray[np.uint8]]:
    """Paints `parts` in order at voxel centres `x`, `y`, `z` (1-D, mm, increasing).

    Returns HU (float32) and labels (uint8), both `(z, y, x)`. `edge_mm` is the width over which one material
    gives way to the next.
    """
    hu = np.full((len(z), len(y), len(x)), background_hu, np.float32)
    labels = np.zeros(hu.shape, np.uint8)
    for first in range(0, len(z), SLAB_SLICES):
        slab = slice(first, first + SLAB_SLICES)
        for part in parts:
            _paint(part, hu[slab], labels[slab], x, y, z[slab], edge_mm)
    return hu, labels


def _paint(
    part: Part,
    hu: Floats,
    labels: NDArray[np.uint8],
    x: Floats,
    y: Floats,
    z: Floats,
    edge_mm: float,
) -> None:
    low, high = part.solid.bounds
    box = tuple(
        slice(
            int(np.searchsorted(axis, low[i] - edge_mm)),
            int(np.searchsorted(axis, high[i] + edge_mm)),
        )
        for i, axis in ((2, z), (1, y), (0, x))
    )
    if any(side.start >= side.stop for side in box):
        return
    depth = part.solid.depth(
        x[box[2]][None, None, :], y[box[1]][None, :, None], z[box[0]][:, None, None]
    )
    share = np.clip(depth / np.float32(edge_mm) + np.float32(0.5), 0, 1)
    target, names = hu[box], labels[box]
    if part.only:
        share = share * np.isin(names, part.only)
    target += share * (np.float32(part.hu) - target)
    if part.label is not None:
        names[share > 0.5] = part.label


def _box(start: Point, end: Point, reach: Point) -> Bounds:
    low = tuple(min(a, b) - r for a, b, r in zip(start, end, reach, strict=True))
    high = tuple(max(a, b) + r for a, b, r in zip(start, end, reach, strict=True))
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
