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
    """The largest outer contour of `(y, x)`, as `outlines` gives it; empty where there is none."""
    found = outlines(mask, most=1)
    return found[0] if found else []


def outlines(mask: npt.NDArray[Any], most: int | None = None) -> list[list[tuple[float, float]]]:
    """The contours of `(y, x)` as points (column, row), corner of the image at (0, 0), the largest first.

    Each is simplified until it has at most `MOST_POINTS` points, or the border would move by more than a
    pixel; the first point is not repeated.
    """
    return [_simple(contour) for contour in outer_contours(mask.astype(bool))[:most]]


def _simple(contour: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    closed = np.vstack([contour, contour[:1]])
    for tolerance in (0.1, 0.25, 0.5, 1.0):
        keep = np.zeros(len(closed), dtype=np.bool_)
        simplified(closed, tolerance, keep)
        simple = closed[keep]
        if len(simple) <= MOST_POINTS:
            break
    return [(float(column) + 0.5, float(row) + 0.5) for row, column in simple[:-1]]
