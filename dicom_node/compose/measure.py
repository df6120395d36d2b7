"""Measurements of every label in one pass over the voxels.

What comes in: labels and the image on one grid. What goes out: a `Measured` for each label that occurs. It
owns the invariant that numbers are those of the voxels that were labelled, in the source's modality values,
without resampling. Standard deviations are of the population (divided by n).
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.compose.kernels import slice_statistics
from dicom_node.errors import ComposeError
from dicom_node.records import Float32, Float64


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one label.

    Attributes:
        voxels: how many.
        volume_mm3: voxels x the volume of one.
        mean, sd, minimum, maximum: in modality values.
        centroid: LPS mm, the mean of the voxel centres.
        box: first and last index along z, y, x.
        areas: `(z,)` voxels in each slice.
    """

    voxels: int
    volume_mm3: float
    mean: float
    sd: float
    minimum: float
    maximum: float
    centroid: tuple[float, float, float]
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    areas: npt.NDArray[np.int64]

    @property
    def key_slice(self) -> int:
        """The slice that shows most of it; the lowest of equals."""
        return int(self.areas.argmax())


def for_each_slice(work: Callable[[int], None], slices: Iterable[int]) -> None:
    """Run `work(z)` in threads, one a core."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(work, slices):
            pass


def measure(labels: npt.NDArray[Any], image: Float32, affine: Float64) -> dict[int, Measured]:
    """Measure each label that occurs, background 0 left out.

    Args:
        labels: `(z, y, x)` unsigned.
        image: `(z, y, x)` float32 on the same grid.
        affine: `(z, y, x, 1)` -> LPS mm.

    Raises:
        ComposeError: the grids differ.
    """
    if labels.shape != image.shape:
        raise ComposeError(f"labels are {labels.shape}, the image {image.shape}")
    slices, highest = labels.shape[0], int(labels.max(initial=0))
    counts = np.zeros((slices, highest + 1), dtype=np.int64)
    sums = np.zeros((slices, highest + 1, 6), dtype=np.float64)
    boxes = np.zeros((slices, highest + 1, 4), dtype=np.int64)
    for_each_slice(
        lambda z: slice_statistics(labels[z], image[z], counts[z], sums[z], boxes[z]), range(slices)
    )
    present = np.flatnonzero(counts.sum(axis=0)).tolist()
    return {
        label: _reduced(counts[:, label], sums[:, label], boxes[:, label], affine)
        for label in present
    }


def _reduced(
    areas: npt.NDArray[np.int64],
    sums: Float64,
    boxes: npt.NDArray[np.int64],
    affine: Float64,
) -> Measured:
    where = np.flatnonzero(areas)
    voxels = int(areas.sum())
    total, squares = sums[:, 0].sum(), sums[:, 1].sum()
    mean = total / voxels
    z = float((areas * np.arange(len(areas))).sum()) / voxels
    centre = affine @ (z, sums[:, 4].sum() / voxels, sums[:, 5].sum() / voxels, 1.0)
    box = boxes[where]
    return Measured(
        voxels=voxels,
        volume_mm3=voxels * abs(float(np.linalg.det(affine[:3, :3]))),
        mean=float(mean),
        sd=float(np.sqrt(max(squares / voxels - mean * mean, 0.0))),
        minimum=float(sums[where, 2].min()),
        maximum=float(sums[where, 3].max()),
        centroid=(float(centre[0]), float(centre[1]), float(centre[2])),
        box=(
            (int(where[0]), int(where[-1])),
            (int(box[:, 0].min()), int(box[:, 1].max())),
            (int(box[:, 2].min()), int(box[:, 3].max())),
        ),
        areas=areas,
    )
