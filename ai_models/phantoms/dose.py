"""Noise of a lower dose, made where it arises: in the projections of a slice.

In: slices in HU with their pixel size. Out: the noise that a scan with fewer photons would have added to
them. A slice is projected (parallel rays over half a turn), every ray gets the variance that Poisson
statistics give it, `exp(line integral) / photons` (Barrett & Swindell, Radiological Imaging, 1981), and
only this noise goes through filtered back-projection, so the slice itself loses no sharpness. Dark rays
are noisier, hence the streaks across the shoulders. Not modelled: electronic noise, bow-tie filter, beam
hardening, scatter, fan and helix. Needs numba; nothing of `ai_models.phantoms` imports this module by
itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import fft

from ai_models.phantoms.physics import Kernel

Floats = NDArray[np.float32]
WATER_PER_MM = 0.0193  # attenuation of water near 70 keV, the effective energy of a 120 kV beam
VIEWS = 400


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Back-projected noise of one geometry: pixel size in mm and the kernel that reconstructs it."""

    pixel_mm: float
    kernel: Kernel

    def draw(self, hu: Floats, rng: np.random.Generator) -> Floats:
        """Noise in HU for one slice `(y, x)`, for one photon a ray: divide by the root of their number."""
        side = max(hu.shape)
        mu = np.maximum(WATER_PER_MM * (1 + hu.astype(np.float32) / 1000), 0)
        angles = (np.arange(VIEWS) * np.pi / VIEWS).astype(np.float32)
        rays = _project(mu, angles, side) * np.float32(self.pixel_mm)
        noise = np.exp(rays / 2) * rng.standard_normal(rays.shape, dtype=np.float32)
        filtered = self._filtered(noise)
        image = _back_project(filtered, angles, hu.shape[0], hu.shape[1])
        return image * np.float32(np.pi / VIEWS * 1000 / WATER_PER_MM)

    def _filtered(self, sinogram: Floats) -> Floats:
        width = sinogram.shape[1]
        padded = 2 * fft.next_fast_len(width)
        frequency = fft.rfftfreq(padded, self.pixel_mm).astype(np.float32)
        response = frequency * self.kernel.transfer(frequency)
        spectrum = fft.rfft(sinogram, padded, axis=1) * response
        return fft.irfft(spectrum, padded, axis=1)[:, :width].astype(np.float32)


def added_at_fraction(noise_hu: float, fraction: float) -> float:
    """Standard deviation (HU) to add to an image of noise `noise_hu` for `fraction` of its dose.

    The variance goes with the inverse of the dose. ValueError unless 0 < fraction < 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"a dose fraction lies between 0 and 1, not {fraction}")
    return float(noise_hu * np.sqrt(1 / fraction - 1))


@njit(cache=True, fastmath=True)
def _project(mu: Floats, angles: Floats, side: int) -> Floats:
    """Sums along rays one pixel apart: `(views, side)`, in pixels; a ray is sampled every pixel."""
    rows, columns = mu.shape
    out = np.zeros((len(angles), side), np.float32)
    half = (side - 1) / 2
    for view in range(len(angles)):
        cos, sin = np.cos(angles[view]), np.sin(angles[view])
        for ray in range(side):
            t = ray - half
            total = np.float32(0)
            for step in range(side):
                s = step - half
                x = t * cos - s * sin + (columns - 1) / 2
                y = t * sin + s * cos + (rows - 1) / 2
                if 0 <= x < columns - 1 and 0 <= y < rows - 1:
                    i, j = int(y), int(x)
                    v, u = y - i, x - j
                    upper = mu[i, j] * (1 - u) + mu[i, j + 1] * u
                    lower = mu[i + 1, j] * (1 - u) + mu[i + 1, j + 1] * u
                    total += upper * (1 - v) + lower * v
            out[view, ray] = total
    return out


@njit(cache=True, fastmath=True)
def _back_project(sinogram: Floats, angles: Floats, rows: int, columns: int) -> Floats:
    views, side = sinogram.shape
    out = np.zeros((rows, columns), np.float32)
    half = (side - 1) / 2
    for view in range(views):
        cos, sin = np.cos(angles[view]), np.sin(angles[view])
        for i in range(rows):
            y = i - (rows - 1) / 2
            start = -(columns - 1) / 2 * cos + y * sin + half
            for j in range(columns):
                t = start + j * cos
                if 0 <= t < side - 1:
                    k = int(t)
                    w = t - k
                    out[i, j] += sinogram[view, k] * (1 - w) + sinogram[view, k + 1] * w
    return out
