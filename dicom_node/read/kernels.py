"""The loop over the pixels of a slice, compiled: stored bits to modality values in one pass."""

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
def rescaled(
    stored: npt.NDArray[Any], slope: float, intercept: float, out: npt.NDArray[np.float32]
) -> None:
    """Write stored x slope + intercept, `(y, x)`, into `out`."""
    rows, columns = stored.shape
    for y in range(rows):
        for x in range(columns):
            out[y, x] = stored[y, x] * slope + intercept


@_compiled
def masked_and_rescaled(
    raw: npt.NDArray[Any],
    shift: int,
    mask: int,
    sign: int,
    slope: float,
    intercept: float,
    out: npt.NDArray[np.float32],
) -> None:
    """The same for words of which only some bits are pixel: shifted, masked, the sign extended.

    Args:
        sign: the sign bit after shifting; 0 for unsigned values.
    """
    rows, columns = raw.shape
    for y in range(rows):
        for x in range(columns):
            value = (np.int64(raw[y, x]) >> shift) & mask
            value = (value ^ sign) - sign
            out[y, x] = value * slope + intercept


@_compiled
def blanked(
    raw: npt.NDArray[Any],
    shift: int,
    mask: int,
    sign: int,
    low: int,
    high: int,
    air: float,
    out: npt.NDArray[np.float32],
    padding: npt.NDArray[np.bool_],
) -> None:
    """Where a stored value lies within [low, high], write `air` and mark it as padding.

    Args:
        raw: `(y, x)` words as they were stored, signed where the pixels are.
        shift, mask, sign: as for `masked_and_rescaled`. A padding value may have bits that no pixel value
            has (-2000 in 12 bits), so the whole word counts too.
    """
    rows, columns = raw.shape
    for y in range(rows):
        for x in range(columns):
            word = np.int64(raw[y, x])
            value = (((word >> shift) & mask) ^ sign) - sign
            if low <= value <= high or low <= word <= high:
                out[y, x] = air
                padding[y, x] = True


@_compiled
def unpacked(data: npt.NDArray[np.uint8], begin: int, end: int, out: npt.NDArray[np.uint8]) -> bool:
    """Run-length decode `data[begin:end]` (PS3.5 G.3.2) into all of `out`; False if it ends before.

    Places are unsigned: for signed ones numba asks at every byte whether they count from the end, and the
    copies are not made in blocks.
    """
    one = np.uint64(1)
    at, stop = np.uint64(begin), np.uint64(end)
    to, size = np.uint64(0), np.uint64(out.shape[0])
    while to < size:
        if at >= stop:
            return False
        code = np.uint64(data[at])
        at += one
        if code < np.uint64(128):
            count = min(code + one, size - to)
            if at + count > stop:
                return False
            for i in range(count):
                out[to + np.uint64(i)] = data[at + np.uint64(i)]
            at += code + one
            to += count
        elif code > np.uint64(128):
            if at >= stop:
                return False
            count = min(np.uint64(257) - code, size - to)
            value = data[at]
            for i in range(count):
                out[to + np.uint64(i)] = value
            at += one
            to += count
    return True


@_compiled
def interleaved(planes: npt.NDArray[np.uint8], words: npt.NDArray[np.uint8]) -> None:
    """Byte planes `(bytes, pixels)`, the highest first, to little-endian words `(pixels, bytes)`."""
    count = planes.shape[0]
    for plane in range(count):
        for pixel in range(planes.shape[1]):
            words[pixel, count - 1 - plane] = planes[plane, pixel]
