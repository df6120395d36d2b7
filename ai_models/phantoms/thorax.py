"""The phantom itself: shape, spacing and a seed in, a CT volume with its truth out.

`thorax(...)` is deterministic: the same arguments give the same voxels. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ai_models.phantoms.anatomy import Habitus, Nodule, draw_nodules, patient
from ai_models.phantoms.physics import STANDARD, Kernel, scan
from ai_models.phantoms.shapes import Point, render


@dataclass(frozen=True, slots=True)
class Phantom:
    """A procedural CT of the trunk.

    `hu` int16, `ideal_hu` int16 (before blur, texture and noise) and `labels` uint8 (`anatomy.Label`)
    have the shape `(z, y, x)`; z grows to the head, y to the back, x to the patient's left. `spacing_mm`
    is `(z, y, x)`, `origin_mm` the centre of voxel `[0, 0, 0]` as LPS `(x, y, z)`, nodules are LPS in mm
    as well.
    """

    hu: NDArray[np.int16]
    ideal_hu: NDArray[np.int16]
    labels: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    origin_mm: Point
    nodules: tuple[Nodule, ...]
    kernel: Kernel
    contrast: bool

    @property
    def affine(self) -> NDArray[np.float64]:
        """Maps voxel indices `(x, y, z, 1)` to LPS in mm; 4 x 4."""
        affine = np.diag((*self.spacing_mm[::-1], 1.0))
        affine[:3, 3] = self.origin_mm
        return affine


def thorax(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    seed: int,
    *,
    nodules: int | Sequence[Nodule] = 0,
    centre_z_mm: float = 45.0,
    kernel: Kernel = STANDARD,
    noise_hu: float | None = None,
    contrast: bool = False,
    couch: bool = True,
) -> Phantom:
    """A thorax (or, with a low `centre_z_mm`, an abdomen) on a grid of `shape` and `spacing_mm`, both
    `(z, y, x)`.

    `nodules` is a number of nodules to place at random, or the nodules themselves (LPS, mm). The grid's
    middle lies at x = y = 0 and z = `centre_z_mm`; the lungs reach from about -150 to 165 mm. `noise_hu`
    defaults to the kernel's own. Raises ValueError for a shape or spacing that is not positive, or where
    nodules do not fit.
    """
    if min(shape) < 1 or min(spacing_mm) <= 0:
        raise ValueError(
            f"a phantom needs a positive shape and spacing, not {shape} and {spacing_mm}"
        )
    rng = np.random.default_rng(seed)
    habitus = Habitus.draw(rng, contrast)
    middle = (0.0, 0.0, centre_z_mm)
    z, y, x = (
        middle[2 - i] + spacing_mm[i] * (np.arange(shape[i]) - (shape[i] - 1) / 2) for i in range(3)
    )
    scale = habitus.scale
    if isinstance(nodules, int):
        inside = (float(z[0] / scale[2]), float(z[-1] / scale[2]))
        placed = draw_nodules(habitus, nodules, inside, rng)
    else:
        placed = tuple(replace(n, centre_mm=_times(n.centre_mm, scale, -1)) for n in nodules)
    ideal, labels = render(
        patient(habitus, placed, rng, couch=couch),
        *((axis / s).astype(np.float32) for axis, s in zip((x, y, z), scale, strict=True)),
        edge_mm=max(spacing_mm[1], spacing_mm[2], 0.4 * spacing_mm[0]),
    )
    noise = kernel.noise_hu if noise_hu is None else noise_hu
    image = scan(ideal, spacing_mm, kernel, noise_hu=noise, rng=rng)
    return Phantom(
        hu=_as_int16(image),
        ideal_hu=_as_int16(ideal),
        labels=labels,
        spacing_mm=spacing_mm,
        origin_mm=(float(x[0]), float(y[0]), float(z[0])),
        nodules=tuple(replace(n, centre_mm=_times(n.centre_mm, scale, +1)) for n in placed),
        kernel=kernel,
        contrast=contrast,
    )


def _as_int16(hu: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


def _times(point: Point, scale: Point, power: int) -> Point:
    x, y, z = (p * s**power for p, s in zip(point, scale, strict=True))
    return x, y, z
