"""BM3D, the strongest denoiser that learns nothing, as a baseline to beat.

In: one slice `(y, x)` and the noise's standard deviation. Out: the slice denoised. Written from the paper
(Dabov, Foi, Katkovnik, Egiazarian, IEEE Trans. Image Process. 16:2080, 2007): squares of 8 x 8 that look
alike are stacked, transformed (DCT within, Hadamard across), shrunk (first by a hard threshold, then by
Wiener with the first answer as the guess), and put back weighted. It assumes white noise, as the paper
does; CT noise is not white, so the strength is a free parameter that the evaluation tunes in its favour.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.fft import dct

Floats = NDArray[np.float32]
SIDE, GROUP, REACH, STEP = 8, 16, 16, 3
THRESHOLD = 2.7  # lambda of the paper
ALIKE = (2500.0, 400.0)  # largest mean squared distance at sigma 25, first and second stage


def bm3d(image: Floats, sigma: float) -> Floats:
    """`image` without noise of standard deviation `sigma`, same units. ValueError unless sigma > 0."""
    if sigma <= 0:
        raise ValueError(f"the noise must be positive, not {sigma}")
    pad = SIDE + REACH
    rough = np.pad(np.asarray(image, np.float32), pad, mode="reflect")
    basis = dct(np.eye(SIDE, dtype=np.float32), norm="ortho", axis=0)
    scale = (sigma / 25) ** 2
    window = np.outer(np.kaiser(SIDE, 2.0), np.kaiser(SIDE, 2.0)).astype(np.float32)
    guess = _stage(rough, rough, sigma, basis, window, ALIKE[0] * scale, False)
    final = _stage(rough, guess, sigma, basis, window, ALIKE[1] * scale, True)
    return final[pad:-pad, pad:-pad]


@njit(cache=True, fastmath=True)
def _transformed(image: Floats, basis: Floats) -> Floats:
    """DCT of the square at every pixel: `(y, x, 8, 8)`."""
    rows, columns = image.shape[0] - SIDE + 1, image.shape[1] - SIDE + 1
    out = np.empty((rows, columns, SIDE, SIDE), np.float32)
    for y in range(rows):
        for x in range(columns):
            out[y, x] = basis @ np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE]) @ basis.T
    return out


@njit(cache=True, fastmath=True)
def _alike(spectra: Floats, y: int, x: int, limit: float, ys: NDArray, xs: NDArray) -> int:
    """Fills `ys`, `xs` with the nearest squares, nearest first; returns a power of two of them."""
    count = 0
    near = np.empty(GROUP, np.float32)
    own = spectra[y, x]
    for v in range(y - REACH, y + REACH + 1):
        for u in range(x - REACH, x + REACH + 1):
            if v < 0 or u < 0 or v >= spectra.shape[0] or u >= spectra.shape[1]:
                continue
            far = np.float32(0)
            bound = near[GROUP - 1] if count == GROUP else np.float32(limit * SIDE * SIDE)
            other = spectra[v, u]
            for i in range(SIDE):
                for j in range(SIDE):
                    d = own[i, j] - other[i, j]
                    far += d * d
                if far > bound:
                    break
            if far > bound:
                continue
            k = min(count, GROUP - 1)
            while k > 0 and near[k - 1] > far:
                near[k], ys[k], xs[k] = near[k - 1], ys[k - 1], xs[k - 1]
                k -= 1
            near[k], ys[k], xs[k] = far, v, u
            count = min(count + 1, GROUP)
    power = 1
    while power * 2 <= count:
        power *= 2
    return power


@njit(cache=True, fastmath=True)
def _hadamard(stack: Floats, count: int) -> None:
    """In place along the first axis, orthonormal: its own inverse."""
    half = 1
    while half < count:
        for start in range(0, count, 2 * half):
            for k in range(start, start + half):
                for i in range(SIDE):
                    for j in range(SIDE):
                        a, b = stack[k, i, j], stack[k + half, i, j]
                        stack[k, i, j], stack[k + half, i, j] = a + b, a - b
        half *= 2
    stack[:count] /= np.float32(np.sqrt(count))


@njit(cache=True, fastmath=True)
def _stage(
    rough: Floats,
    guide: Floats,
    sigma: float,
    basis: Floats,
    window: Floats,
    limit: float,
    wiener: bool,
) -> Floats:
    spectra, guides = _transformed(rough, basis), _transformed(guide, basis)
    total, weights = np.zeros_like(rough), np.full_like(rough, 1e-12)
    stack, model = (
        np.empty((GROUP, SIDE, SIDE), np.float32),
        np.empty((GROUP, SIDE, SIDE), np.float32),
    )
    ys, xs = np.empty(GROUP, np.int64), np.empty(GROUP, np.int64)
    # thresholding before the search keeps noise out of the distances (the paper's equation 4)
    cut = np.float32(0 if wiener else 2.0 * sigma)
    search = np.where(np.abs(guides) < cut, np.float32(0), guides)
    for y in range(0, spectra.shape[0], STEP):
        for x in range(0, spectra.shape[1], STEP):
            count = _alike(search, y, x, limit, ys, xs)
            for k in range(count):
                stack[k] = spectra[ys[k], xs[k]]
                model[k] = guides[ys[k], xs[k]]
            _hadamard(stack, count)
            energy = np.float32(0)
            if wiener:
                _hadamard(model, count)
            for k in range(count):
                for i in range(SIDE):
                    for j in range(SIDE):
                        if wiener:
                            power = model[k, i, j] ** 2
                            gain = power / (power + sigma * sigma)
                        else:
                            gain = 1.0 if abs(stack[k, i, j]) > THRESHOLD * sigma else 0.0
                        stack[k, i, j] *= gain
                        energy += gain * gain
            _hadamard(stack, count)
            weight = np.float32(1 / (sigma * sigma * max(energy, 1.0)))
            for k in range(count):
                square = basis.T @ stack[k] @ basis
                v, u = ys[k], xs[k]
                for i in range(SIDE):
                    for j in range(SIDE):
                        total[v + i, u + j] += weight * window[i, j] * square[i, j]
                        weights[v + i, u + j] += weight * window[i, j]
    return total / weights
