"""Slices that are missing or unevenly spaced: an even grid for the model, its result back on the slices.

What comes in: a `Volume` that is not even. What goes out: one that is, interpolated linearly from slice to
slice along their line, and afterwards a prediction on the slices that were scanned. It owns the invariant
that a slice of the even grid which lies at a scanned one is that one, unblended, and that nothing is
reported between scanned slices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dicom_node.errors import NotApplicable
from dicom_node.read.stack import OFF_GRID
from dicom_node.records import (
    Classification,
    Denoised,
    Float32,
    Float64,
    Prediction,
    Segmentation,
    Volume,
)


@dataclass(frozen=True, slots=True)
class Evened:
    """An even volume, and where the scanned slices lie on it.

    Attributes:
        volume: evenly spaced; its first and last slice are the scanned ones.
        at: `(z,)`, of each scanned slice its place on the even grid, in slices of it.
    """

    volume: Volume
    at: Float64

    @property
    def nearest(self) -> npt.NDArray[np.intp]:
        """The slice of the even grid that is nearest to each scanned one."""
        return np.rint(self.at).astype(np.intp)

    @property
    def exact(self) -> bool:
        """Whether each scanned slice is a slice of the even grid."""
        return bool(np.abs(self.at - np.rint(self.at)).max() <= OFF_GRID)


def evened(volume: Volume) -> Evened:
    """The volume on the even grid of the usual, or where there is no usual one, the least distance."""
    assert volume.positions is not None  # a volume that is not even has them
    whole = volume.positions[-1] - volume.positions[0]
    along = (volume.positions - volume.positions[0]) @ whole / np.linalg.norm(whole)
    distances = np.diff(along)
    usual = float(np.median(distances))
    # an odd pair of slices close together does not make the grid as fine
    for step in (usual, max(float(distances.min()), usual / 2)):
        count = max(round(float(along[-1]) / step), 1) + 1
        at = along / along[-1] * (count - 1)
        if np.abs(at - np.rint(at)).max() <= OFF_GRID:
            break
    affine = volume.affine.copy()
    affine[:3, 0] *= (len(along) - 1) / (count - 1)
    nearest = np.abs(at[None] - np.arange(count)[:, None]).argmin(axis=1)
    return Evened(
        replace(
            volume,
            array=_interpolated(volume.array, at, count),
            affine=affine,
            frames=tuple(volume.frames[z] for z in nearest),
            rescale=volume.rescale[nearest],
            positions=None,
            even=True,
            padding=None,
        ),
        at,
    )


def _interpolated(values: Float32, at: Float64, count: int) -> Float32:
    """Values of slices at the places `at` on a grid of `count` slices."""
    made = np.empty((count, *values.shape[1:]), dtype=np.float32)
    for z in range(count):
        near = int(np.abs(at - z).argmin())
        if abs(at[near] - z) <= OFF_GRID:
            made[z] = values[near]
            continue
        above = int(np.searchsorted(at, z))
        share = np.float32((z - at[above - 1]) / (at[above] - at[above - 1]))
        made[z] = values[above - 1] * (1 - share) + values[above] * share
    return made


def check_denoising(even: Evened) -> None:
    """
    Raises:
        NotApplicable: a denoised slice would be a blend of others.
    """
    if not even.exact:
        raise NotApplicable(
            "slices are spaced unevenly: denoised ones would be blends of their neighbours"
        )


def on_scanned_slices(prediction: Prediction, even: Evened) -> Prediction:
    """A prediction on the even grid, put back on the slices that were scanned."""
    at = even.nearest
    if isinstance(prediction, Segmentation):
        uncertainty = prediction.uncertainty
        return replace(
            prediction,
            labels=np.ascontiguousarray(prediction.labels[at]),
            uncertainty=None if uncertainty is None else _sampled(uncertainty, even),
            probabilities={
                value: np.rint(_sampled(shares.astype(np.float32), even)).astype(np.uint8)
                for value, shares in prediction.probabilities.items()
            },
        )
    if isinstance(prediction, Denoised):
        check_denoising(even)
        return replace(prediction, array=np.ascontiguousarray(prediction.array[at]))
    maps = {index: _sampled(heat, even) for index, heat in prediction.heatmaps.items()}
    return replace(prediction, heatmaps=maps, slice_scores=_scores(prediction, even))


def _scores(prediction: Classification, even: Evened) -> Mapping[int, Float32]:
    return {index: scores[even.nearest] for index, scores in prediction.slice_scores.items()}


def _sampled(values: Float32, even: Evened) -> Float32:
    """Values `(z, y, x)` of the even grid at the scanned slices."""
    low = np.clip(np.floor(even.at).astype(np.intp), 0, len(values) - 1)
    high = np.minimum(low + 1, len(values) - 1)
    share = (even.at - low).astype(np.float32)[:, None, None]
    made: Float32 = values[low] * (1 - share) + values[high] * share
    return made
