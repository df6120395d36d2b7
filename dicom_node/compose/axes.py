"""Long and short axis of a lesion on its key slice, as RECIST 1.1 measures them (Eisenhauer et al. 2009).

What comes in: a mask of one slice and the size of a pixel. What goes out: two diameters in mm with their end
points. The long axis is the longest line between two border points, the short axis the widest extent at right
angles to it. Pixel edges count: a lesion of one pixel is as long as that pixel's diagonal.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull

from dicom_node.records import Float64

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axes:
    """Diameters in mm; end points are (column, row) in pixels, the image's corner at (0, 0)."""

    long_mm: float
    short_mm: float
    long_ends: tuple[Point, Point]
    short_ends: tuple[Point, Point]


def axes(mask: npt.NDArray[Any], spacing: tuple[float, float]) -> Axes:
    """Measure the largest diameters of a mask `(y, x)` that holds at least one pixel.

    Args:
        spacing: mm along `(y, x)`.
    """
    scale = np.array([spacing[1], spacing[0]])
    hull = _hull(mask) * scale
    apart = np.linalg.norm(hull[:, None] - hull[None], axis=2)
    first, second = np.unravel_index(int(apart.argmax()), apart.shape)
    along = (hull[second] - hull[first]) / apart[first, second]
    across = np.array([-along[1], along[0]])
    widths = hull @ across
    low, high = int(widths.argmin()), int(widths.argmax())
    return Axes(
        float(apart[first, second]),
        float(widths[high] - widths[low]),
        (_point(hull[first] / scale), _point(hull[second] / scale)),
        (_point(hull[low] / scale), _point(hull[high] / scale)),
    )


def _point(value: Float64) -> Point:
    return float(value[0]), float(value[1])


def _hull(mask: npt.NDArray[Any]) -> Float64:
    """Convex hull of the pixels' corners, (column, row)."""
    rows, columns = np.nonzero(mask)
    corners = [
        np.stack([columns + dx, rows + dy], axis=1).astype(np.float64)
        for dx in (0, 1)
        for dy in (0, 1)
    ]
    points = np.unique(np.concatenate(corners), axis=0)
    found: Float64 = points[ConvexHull(points).vertices]
    return found
