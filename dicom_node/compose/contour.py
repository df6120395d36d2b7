"""The outline of a finding on its key slice, as a planar region for reports and pictures."""

from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours

from dicom_node.compose.kernels import simplified

MOST_POINTS = 400
"""A contour of more points is drawn no better by any viewer."""


def outer_contours(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """Closed outer contours of a mask `(y, x)`, the longest first.

    Returns:
        For each, `(n, 2)` of (row, column) in pixel indices, where (0, 0) is the centre of the first
        pixel; the first point is not repeated.
    """
    padded = np.pad(mask, 1).astype(np.float32)
    found = [contour[:-1] - 1 for contour in find_contours(padded, 0.5)]
    return sorted(found, key=_enclosed, reverse=True)


def _enclosed(contour: npt.NDArray[np.float64]) -> float:
    rows, columns = contour[:, 0], contour[:, 1]
    return abs(float(np.dot(rows, np.roll(columns, 1)) - np.dot(columns, np.roll(rows, 1)))) / 2


def outline(mask: npt.NDArray[Any]) -> list[tuple[float, float]]:
    """The largest outer contour of `(y, x)` as SCOORD points: (column, row), corner of the image at (0, 0).

    Simplified until it has at most `MOST_POINTS` points, or the border would move by more than a pixel.
    """
    contours = outer_contours(mask.astype(bool))
    if not contours:
        return []
    contour = np.vstack([contours[0], contours[0][:1]])
    for tolerance in (0.1, 0.25, 0.5, 1.0):
        keep = np.zeros(len(contour), dtype=np.bool_)
        simplified(contour, tolerance, keep)
        simple = contour[keep]
        if len(simple) <= MOST_POINTS:
            break
    return [(float(column) + 0.5, float(row) + 0.5) for row, column in simple[:-1]]
