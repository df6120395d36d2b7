"""Surface area of a finding: that of the mesh between its voxels and the rest (IBSI C0JK, as PyRadiomics).

What comes in: a mask and where its voxels lie. What goes out: mm2. The mesh is that of marching cubes
(Lewiner et al. 2003) at the half of a mask of zeros and ones. A flat side comes out exact; a ball 8 per cent
too large, 14 where slices are 2.5 times as thick as pixels: that is the definition's, not an error of ours.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.measure import marching_cubes

from dicom_node.records import Float64


def surface_mm2(mask: npt.NDArray[Any], affine: Float64, positions: Float64 | None = None) -> float:
    """The area of the mesh around `(z, y, x)`, a mask of at least one voxel; edges of the image are closed.

    Args:
        affine: `(z, y, x, 1)` -> LPS mm; sheared ones are taken as they are.
        positions: `(z, 3)`, of each slice's first voxel, where slices are unevenly spaced.
    """
    corners, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5)
    index = corners.astype(np.float64) - 1
    slices = np.arange(len(mask))
    if positions is None:
        positions = affine[:3, 3] + slices[:, None] * affine[:3, 0]
    # beyond the first and the last slice the next one is as far as from their neighbours
    step = affine[:3, 0] if len(mask) == 1 else None
    first = positions[0] - (positions[1] - positions[0] if step is None else step)
    last = positions[-1] + (positions[-1] - positions[-2] if step is None else step)
    origins = np.vstack([first, positions, last])
    heights = np.arange(-1, len(mask) + 1)
    at = np.stack([np.interp(index[:, 0], heights, origins[:, axis]) for axis in range(3)], axis=1)
    points = at + index[:, 1:2] * affine[:3, 1] + index[:, 2:3] * affine[:3, 2]
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
