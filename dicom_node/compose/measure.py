"""Measurements of every label at once: one pass over the voxels, a second for percentiles.

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

from dicom_node.compose.kernels import slice_histograms, slice_statistics
from dicom_node.errors import ComposeError
from dicom_node.records import Float32, Float64

BINS = 8192
"""Of a label's histogram: whole HU lie in bins of their own."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one label.

    Attributes:
        voxels: how many.
        volume_mm3: voxels x the volume of one. Where slices are unevenly spaced, a slice stands for the way
            half to either neighbour, also across a gap.
        mean, sd, minimum, maximum: in modality values.
        centroid: LPS mm, the mean of the voxel centres, each weighted by its volume.
        box: first and last index along z, y, x.
        areas: `(z,)` voxels in each slice.
        percentiles: the 5th, 50th and 95th by nearest rank, to 1/8191 of the range of values.
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
    percentiles: tuple[float, float, float]

    @property
    def key_slice(self) -> int:
        """The slice that shows most of it; the lowest of equals."""
        return int(self.areas.argmax())


def for_each_slice(work: Callable[[int], None], slices: Iterable[int]) -> None:
    """Run `work(z)` in threads, one a core."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(work, slices):
            pass


def measure(
    labels: npt.NDArray[Any],
    image: Float32,
    affine: Float64,
    positions: Float64 | None = None,
) -> dict[int, Measured]:
    """Measure each label that occurs, background 0 left out.

    Args:
        labels: `(z, y, x)` unsigned.
        image: `(z, y, x)` float32 on the same grid.
        affine: `(z, y, x, 1)` -> LPS mm.
        positions: `(z, 3)`, of each slice's first voxel, where slices are unevenly spaced.

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
    lowest = _where(counts, sums[:, :, 2], np.inf).min(axis=0)
    highest_of = _where(counts, sums[:, :, 3], -np.inf).max(axis=0)
    percentiles = _percentiles(labels, image, lowest, highest_of)
    shares = np.ones(slices) if positions is None else _shares(positions)
    if positions is None:
        positions = affine[:3, 3] + np.arange(slices)[:, None] * affine[:3, 0]
    layout = _Layout(affine, positions, shares)
    return {
        label: _reduced(
            counts[:, label], sums[:, label], boxes[:, label], layout, percentiles[label]
        )
        for label in present
    }


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where slices lie, and how thick each counts, in mean steps."""

    affine: Float64
    positions: Float64
    shares: Float64


def _shares(positions: Float64) -> Float64:
    """What each slice stands for: the way half to either neighbour, at the ends to the only one."""
    apart = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    both = np.append(apart, apart[-1]) + np.insert(apart, 0, apart[0])
    found: Float64 = both / 2 / apart.mean()
    return found


def _where(counts: npt.NDArray[np.int64], values: Float64, otherwise: float) -> Float64:
    found: Float64 = np.where(counts > 0, values, otherwise)
    return found


def _percentiles(
    labels: npt.NDArray[Any], image: Float32, lowest: Float64, highest: Float64
) -> list[tuple[float, float, float]]:
    """5th, 50th and 95th percentile of each label, from a histogram between its extremes."""
    width = np.where(highest > lowest, (highest - lowest) / (BINS - 1), 1.0)
    workers = max(1, min(os.cpu_count() or 1, len(labels)))
    parts = np.zeros((workers, len(lowest), BINS), dtype=np.int64)

    def share(worker: int) -> None:
        for z in range(worker, len(labels), workers):
            slice_histograms(labels[z], image[z], lowest, 1 / width, parts[worker])

    for_each_slice(share, range(workers))
    bins = parts.sum(axis=0)
    found = []
    for label, counted in enumerate(bins):
        ranks = [np.ceil(share * counted.sum()) for share in (0.05, 0.5, 0.95)]
        at = np.searchsorted(np.cumsum(counted), ranks) * width[label] + lowest[label]
        found.append((float(at[0]), float(at[1]), float(at[2])))
    return found


def _reduced(
    areas: npt.NDArray[np.int64],
    sums: Float64,
    boxes: npt.NDArray[np.int64],
    layout: _Layout,
    percentiles: tuple[float, float, float],
) -> Measured:
    where = np.flatnonzero(areas)
    voxels = int(areas.sum())
    total, squares = sums[:, 0].sum(), sums[:, 1].sum()
    mean = total / voxels
    weighted = float(layout.shares @ areas)
    sum_y, sum_x = (layout.shares * sums[:, at] for at in (4, 5))
    centre = (layout.shares * areas) @ layout.positions
    centre += layout.affine[:3, 1] * sum_y.sum() + layout.affine[:3, 2] * sum_x.sum()
    centre /= weighted
    box = boxes[where]
    return Measured(
        voxels=voxels,
        volume_mm3=weighted * abs(float(np.linalg.det(layout.affine[:3, :3]))),
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
        percentiles=percentiles,
    )
