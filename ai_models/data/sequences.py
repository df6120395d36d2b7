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
PLACES = 16


@dataclass(frozen=True, slots=True)
class NoduleSeries:
    """`hu` int16 `(z, y, x)`; `slices` bool `(z,)`: with nodule; `diameter_mm`, 0 where there is none.

    `spots` bool `(z, 16, 16)`, rows along x: where a slice shows a nodule or one of the straight vessels.
    """

    hu: NDArray[np.int16]
    spots: NDArray[np.bool_]
    slices: NDArray[np.bool_]
    diameter_mm: float


def nodule_series(seed: int) -> NoduleSeries:
    """One patient of his own for each seed; every second one has a nodule of 6 to 12 mm."""
    rng = np.random.default_rng([seed, 99])
    habitus = Habitus.draw(np.random.default_rng(seed), False)
    scale = np.array(habitus.scale)
    centre = float(rng.uniform(0, 90))
    half = SPACING_MM[0] * (SHAPE[0] - 1) / 2
    spots = draw_nodules(habitus, 6, _canonical(centre, half - 9, scale[2]), rng)
    ill = seed % 2 == 0
    vessels = int(rng.integers(3, 6))
    parts = [s for spot in spots[1 : 1 + vessels] for s in _vessel(spot, half, scale, rng)]
    diameter = float(rng.uniform(6, 12))
    middle = np.array(spots[0].centre_mm) * scale
    if ill:
        parts.append(Nodule(_point(middle), diameter, float(rng.uniform(10, 60))))
    phantom = thorax(SHAPE, SPACING_MM, seed, nodules=parts, centre_z_mm=centre)
    z = phantom.origin_mm[2] + SPACING_MM[0] * np.arange(SHAPE[0])
    touched = np.abs(z - middle[2]) < diameter / 2 if ill else np.zeros(SHAPE[0], bool)
    painted = (phantom.labels == Label.NODULE).transpose(0, 2, 1)
    blocks = painted.reshape(SHAPE[0], PLACES, SHAPE[2] // PLACES, PLACES, SHAPE[1] // PLACES)
    return NoduleSeries(phantom.hu, blocks.any((2, 4)), touched, diameter if ill else 0.0)


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
        "spots": np.stack([series.spots for series in made]),
        "slices": np.stack([series.slices for series in made]),
        "diameters": np.array([series.diameter_mm for series in made]),
    }


def windowed(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """HU `(z, y, x)` from -1000 to 400 as 0 to 255, turned to the network's `(x, y, z)`."""
    grey = np.clip((hu.astype(np.float32) + 1000) / 1400, 0, 1) * 255
    return np.ascontiguousarray(grey.round().astype(np.uint8).transpose(2, 1, 0))
