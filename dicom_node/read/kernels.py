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
