"""Loops over every voxel, compiled: one pass for all statistics, one pass for all bit planes.

Arrays in, arrays out; no DICOM. Each kernel releases the interpreter's lock, so slices run in threads.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    try:
        compiled: _Function = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # nowhere to keep compiled code: a read-only installation without a home
        compiled = numba.njit(nogil=True)(function)
    return compiled


@_compiled
def slice_statistics(
    labels: npt.NDArray[Any],
    image: npt.NDArray[np.float32],
    counts: npt.NDArray[np.int64],
    sums: npt.NDArray[np.float64],
    boxes: npt.NDArray[np.int64],
) -> None:
    """Sums of one slice, for every label at once.

    Args:
        labels: `(y, x)` unsigned.
        image: `(y, x)` float32.
        counts: `(labels,)`, voxels of each.
        sums: `(labels, 6)`: sum, sum of squares, minimum, maximum, sum of y, sum of x.
        boxes: `(labels, 4)`: first and last y, first and last x.
    """
    rows, columns = labels.shape
    for y in range(rows):
        for x in range(columns):
            label = labels[y, x]
            if label == 0:
                continue
            value = np.float64(image[y, x])
            if counts[label] == 0:
                sums[label, 2] = value
                sums[label, 3] = value
                boxes[label, 0] = y
                boxes[label, 1] = y
                boxes[label, 2] = x
                boxes[label, 3] = x
            counts[label] += 1
            sums[label, 0] += value
            sums[label, 1] += value * value
            sums[label, 2] = min(sums[label, 2], value)
            sums[label, 3] = max(sums[label, 3], value)
            sums[label, 4] += y
            sums[label, 5] += x
            boxes[label, 1] = y
            boxes[label, 2] = min(boxes[label, 2], x)
            boxes[label, 3] = max(boxes[label, 3], x)


@_compiled
def slice_histograms(
    labels: npt.NDArray[Any],
    image: npt.NDArray[np.float32],
    lowest: npt.NDArray[np.float64],
    per_unit: npt.NDArray[np.float64],
    bins: npt.NDArray[np.int64],
) -> None:
    """Add one slice to the histogram of each label.

    Args:
        lowest: `(labels,)`, the value of the first bin.
        per_unit: `(labels,)`, bins per modality unit.
        bins: `(labels, n)`, counts.
    """
    rows, columns = labels.shape
    for y in range(rows):
        for x in range(columns):
            label = labels[y, x]
            if label:
                at = int((np.float64(image[y, x]) - lowest[label]) * per_unit[label] + 0.5)
                if 0 <= at < bins.shape[1]:  # a value that is not finite has no bin
                    bins[label, at] += 1


@_compiled
def pack_slice(
    labels: npt.NDArray[Any],
    frame_of: npt.NDArray[np.int64],
    bits: npt.NDArray[np.uint8],
) -> None:
    """Set the bits of one slice in the frames of the labels that it holds.

    Args:
        labels: `(y, x)` unsigned.
        frame_of: `(labels,)`, the frame of each label in this slice, negative where it has none.
        bits: the whole Pixel Data, one bit a pixel, frames without padding between them, the first
            pixel in the lowest bit (PS3.5 8.1.1).
    """
    rows, columns = labels.shape
    size = rows * columns
    for y in range(rows):
        for x in range(columns):
            label = labels[y, x]
            if label == 0:
                continue
            frame = frame_of[label]
            if frame < 0:
                continue
            at = frame * size + y * columns + x
            bits[at >> 3] |= np.uint8(1 << (at & 7))


@_compiled
def store_slice(
    values: npt.NDArray[np.float32],
    slope: float,
    intercept: float,
    low: int,
    high: int,
    stored: npt.NDArray[Any],
) -> bool:
    """Write (values - intercept) / slope, rounded and limited to [low, high]; False if one is not finite."""
    rows, columns = values.shape
    for y in range(rows):
        for x in range(columns):
            value = (values[y, x] - intercept) / slope
            if not np.isfinite(value):
                return False
            stored[y, x] = int(min(max(np.rint(value), low), high))
    return True


@_compiled
def simplified(
    points: npt.NDArray[np.float64], tolerance: float, keep: npt.NDArray[np.bool_]
) -> None:
    """Mark the points of a line that stay when no other moves it by more than `tolerance`.

    Douglas and Peucker 1973, with a stack of our own.

    Args:
        points: `(n, 2)`.
        keep: `(n,)`, False on entry.
    """
    stack = np.empty((len(points), 2), dtype=np.int64)
    depth = 1
    stack[0, 0] = 0
    stack[0, 1] = len(points) - 1
    keep[0] = True
    keep[-1] = True
    while depth > 0:
        depth -= 1
        first, last = stack[depth, 0], stack[depth, 1]
        dy = points[last, 0] - points[first, 0]
        dx = points[last, 1] - points[first, 1]
        length = np.hypot(dy, dx)
        farthest = -1
        distance = tolerance
        for i in range(first + 1, last):
            ay = points[i, 0] - points[first, 0]
            ax = points[i, 1] - points[first, 1]
            away = abs(ay * dx - ax * dy) / length if length > 0 else np.hypot(ay, ax)
            if away > distance:
                distance = away
                farthest = i
        if farthest >= 0:
            keep[farthest] = True
            stack[depth, 0], stack[depth, 1] = first, farthest
            stack[depth + 1, 0], stack[depth + 1, 1] = farthest, last
            depth += 2
