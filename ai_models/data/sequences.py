"""Phantom series with and without a nodule, made so that no single slice gives the answer away.

In: a seed. Out: `NoduleSeries`. Every series has straight vessels that cross the slices, round and
as thick as a nodule in each of them; a nodule comes and goes within a few slices. Who sees one
slice sees round spots either way. The vessels are chains of spheres: the phantom paints spheres,
and paints them in the lungs only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai_models.phantoms.anatomy import Habitus, Label, Nodule, draw_nodules
from ai_models.phantoms.thorax import thorax

SHAPE = (24, 128, 128)
SPACING_MM = (3.0, 2.7, 2.7)
PLACES = 32
APART_MM = 8.0  # between a straight vessel and the nodule


@dataclass(frozen=True, slots=True)
class NoduleSeries:
    """`hu` int16 `(z, y, x)`; `slices` bool `(z,)`: with nodule; `diameter_mm`, 0 where there is none.

    `spots` bool `(z, 32, 32)`, rows along x: where a slice shows a nodule or one of the straight vessels;
    `nodule`, the same shape: where it shows the nodule.
    """

    hu: NDArray[np.int16]
    spots: NDArray[np.bool_]
    nodule: NDArray[np.bool_]
    slices: NDArray[np.bool_]
    diameter_mm: float


def nodule_series(seed: int) -> NoduleSeries:
    """One patient of his own for each seed; every second one has a nodule of 6 to 12 mm."""
    rng = np.random.default_rng([seed, 99])
    habitus = Habitus.draw(np.random.default_rng(seed), False)
    scale = np.array(habitus.scale)
    centre = float(rng.uniform(0, 90))
    half = SPACING_MM[0] * (SHAPE[0] - 1) / 2
    drawn = draw_nodules(habitus, 8, _canonical(centre, half - 9, scale[2]), rng)
    ill = seed % 2 == 0
    diameter = float(rng.uniform(6, 12))
    middle = np.array(drawn[0].centre_mm) * scale
    vessels = [_vessel(spot, half, scale, rng) for spot in drawn[1:]]
    apart = [v for v in vessels if _gap(v, middle, diameter) > APART_MM]  # healthy ones alike
    parts = [sphere for v in apart[: int(rng.integers(3, 6))] for sphere in v]
    if ill:
        parts.append(Nodule(_point(middle), diameter, float(rng.uniform(10, 60))))
    phantom = thorax(SHAPE, SPACING_MM, seed, nodules=parts, centre_z_mm=centre)
    x, y, z = (
        phantom.origin_mm[i] + SPACING_MM[2 - i] * np.arange(SHAPE[2 - i]) - middle[i]
        for i in range(3)
    )
    squared = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2
    touched = (np.abs(z) < diameter / 2) & ill
    ball = (squared < (diameter / 2 + 0.5) ** 2) & touched[:, None, None]
    painted = phantom.labels == Label.NODULE
    return NoduleSeries(
        phantom.hu, _places(painted), _places(ball), touched, diameter if ill else 0.0
    )


def _places(voxels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`(z, y, x)` to `(z, 32, 32)`, rows along x: whether a place holds any such voxel."""
    deep, wide = (side // PLACES for side in SHAPE[1:])
    blocks = voxels.transpose(0, 2, 1).reshape(SHAPE[0], PLACES, wide, PLACES, deep)
    return np.asarray(blocks.any((2, 4)))


def _gap(vessel: list[Nodule], middle: NDArray[np.float64], diameter: float) -> float:
    """Between the surfaces of a vessel and of a ball, in mm."""
    axis = np.array([sphere.centre_mm for sphere in vessel]) - middle
    nearest = float(np.linalg.norm(axis, axis=1).min())
    return nearest - (diameter + vessel[0].diameter_mm) / 2


def _canonical(centre: float, half: float, scale: float) -> tuple[float, float]:
    return (centre - half) / scale, (centre + half) / scale


def _vessel(
    spot: Nodule, half: float, scale: NDArray[np.float64], rng: np.random.Generator
) -> list[Nodule]:
    """A tube through the spot and through all slices, up to 20 degrees off their normal."""
    diameter, hu = float(rng.uniform(6, 12)), float(rng.uniform(10, 60))
    tilt = np.append(rng.uniform(-0.25, 0.25, 2), 1.0)
    middle = np.array(spot.centre_mm) * scale
    reach = 2 * half + 12
    return [
        Nodule(_point(middle + s * tilt), diameter, hu)
        for s in np.arange(-reach, reach, 0.3 * diameter)
    ]


def _point(p: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(p[0]), float(p[1]), float(p[2])


def nodule_set(first: int, count: int) -> dict[str, NDArray[Any]]:
    """Series of the seeds from `first` on: `images` `(n, x, y, z)` as `windowed`, and the rest stacked."""
    made = [nodule_series(seed) for seed in range(first, first + count)]
    return {
        "images": np.stack([windowed(series.hu) for series in made]),
        "nodule": np.stack([series.nodule for series in made]),
        "slices": np.stack([series.slices for series in made]),
        "diameters": np.array([series.diameter_mm for series in made]),
    }


def windowed(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """HU `(z, y, x)` from -1000 to 400 as 0 to 255, turned to the network's `(x, y, z)`."""
    grey = np.clip((hu.astype(np.float32) + 1000) / 1400, 0, 1) * 255
    return np.ascontiguousarray(grey.round().astype(np.uint8).transpose(2, 1, 0))
