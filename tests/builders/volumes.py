"""Images in memory for tests of what comes after reading: a `Volume` in any orientation, a projection."""

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset

from dicom_node.records import Float32, ProjectionImage, SourceFrame, Volume

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
"""Rows run to the patient's right; slices, along row x column, downwards."""


def oblique(degrees: float = 25.0) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Row and column directions, turned about two axes."""
    a = np.deg2rad(degrees)
    row = np.array([np.cos(a), np.sin(a), 0.0])
    column = np.cos(a / 2) * np.array([-np.sin(a), np.cos(a), 0.0]) + np.array(
        [0.0, 0.0, np.sin(a / 2)]
    )
    return tuple(row.tolist()), tuple(column.tolist())  # type: ignore[return-value]


def volume(
    array: Float32,
    orientation: Sequence[Sequence[float]] = AXIAL,
    spacing: tuple[float, float, float] = (2.0, 1.0, 1.0),
    origin: tuple[float, float, float] = (-20.0, 31.0, 7.0),
) -> Volume:
    """A volume of `(z, y, x)` values with PS3.3 C.7.6.2 row and column directions and `(z, y, x)` mm."""
    row, column = (np.array(direction) for direction in orientation)
    affine = np.eye(4)
    affine[:3, 0] = np.cross(row, column) * spacing[0]
    affine[:3, 1] = column * spacing[1]
    affine[:3, 2] = row * spacing[2]
    affine[:3, 3] = origin
    slices = array.shape[0]
    return Volume(
        array=np.ascontiguousarray(array, dtype=np.float32),
        affine=affine,
        frames=tuple(SourceFrame("1.2", f"1.2.{number}") for number in range(slices)),
        headers=tuple(Dataset() for _ in range(slices)),
        rescale=np.tile([1.0, 0.0], (slices, 1)),
    )


def projection(array: Float32) -> ProjectionImage:
    """A projection image of `(y, x)` values."""
    return ProjectionImage(
        array=np.ascontiguousarray(array, dtype=np.float32),
        header=Dataset(),
        frame=SourceFrame("1.2", "1.2.1"),
    )


def asymmetric_block(shape: tuple[int, int, int] = (24, 40, 48), value: float = 500.0) -> Float32:
    """A block and a bar beside it that no flip, turn or change of axes maps onto itself."""
    z, y, x = shape
    array = np.zeros(shape, dtype=np.float32)
    array[z // 6 : z // 2, y // 8 : y // 2, x // 2 : x - x // 8] = value
    array[z // 2 : z - z // 8, y // 8 : y // 4, x // 2 : x // 2 + x // 6] = value
    return array
