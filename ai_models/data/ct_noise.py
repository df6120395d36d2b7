"""Slices with the noise of a lower dose, real ones and phantoms, for training and judging the denoiser.

In: real series (`ct_sets.Source`) or a phantom's seed. Out: `NoisySeries`: the image as it is, and noise
of the projections at unit strength to add to it. For a real series the image at its own dose is the
target: it has noise of its own, measured here, so a quarter of the dose means the added variance is three
times that. A phantom's target has no noise at all. Results are cached, since a slice takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ai_models.data.ct_sets import Source, read
from ai_models.phantoms import SOFT, STANDARD, Kernel, thorax
from ai_models.phantoms.dose import NoiseModel

Floats = NDArray[np.float32]
PATCH = 20  # pixels: side of the squares in which noise is measured
KERNELS = (SOFT, Kernel("MEDIUM", 0.52, 16.0), STANDARD, Kernel("FINE", 0.78, 32.0))


@dataclass(frozen=True, slots=True)
class NoisySeries:
    """`hu` int16 `(z, y, x)`, the target; `noise` float16, same shape, of standard deviation 1 in the body.

    `own_noise_hu` is the noise that the target has itself (0: none).
    """

    name: str
    hu: NDArray[np.int16]
    noise: NDArray[np.float16]
    pixel_mm: float
    own_noise_hu: float
    kernel: str

    def at(self, added_hu: float) -> Floats:
        """The series with noise of `added_hu` added, float32 `(z, y, x)`."""
        return self.hu + np.float32(added_hu) * self.noise


def uniform_patches(hu: NDArray, limit: int = 400) -> NDArray[np.intp]:
    """Corners `(n, 3)` `(z, y, x)` of the squares of soft tissue that vary least: noise and nothing else."""
    found: list[tuple[float, int, int, int]] = []
    for z, plane in enumerate(hu.astype(np.float32)):
        smooth = ndimage.gaussian_filter(plane, 2.5)
        for y in range(0, plane.shape[0] - PATCH, PATCH):
            for x in range(0, plane.shape[1] - PATCH, PATCH):
                square = smooth[y : y + PATCH, x : x + PATCH]
                if square.min() > -20 and square.max() < 130:
                    found.append((float(np.ptp(square)), z, y, x))
    found.sort()
    keep = found[: min(limit, max(1, len(found) // 4))]
    return np.array([f[1:] for f in keep], int).reshape(-1, 3)


def patches_of(hu: NDArray, corners: NDArray[np.intp]) -> Floats:
    """The squares `(n, PATCH, PATCH)` at `corners`, each less its mean."""
    squares = np.stack([hu[z, y : y + PATCH, x : x + PATCH] for z, y, x in corners])
    squares = squares.astype(np.float32)
    return squares - squares.mean((1, 2), keepdims=True)


def measured_noise(hu: NDArray, corners: NDArray[np.intp]) -> tuple[float, float]:
    """Standard deviation in HU, and correlation between neighbouring pixels, of the noise in squares."""
    squares = patches_of(hu, corners)
    variance = float((squares**2).mean())
    beside = float((squares[:, :, 1:] * squares[:, :, :-1]).mean())
    return float(np.sqrt(variance)), beside / variance


def real_noisy(of: Source, cache: Path, triples: int = 0) -> NoisySeries:
    """A real series with noise of the kernel whose pixel correlation is nearest to its own.

    With `triples`, only so many stretches of three neighbouring slices, spread over the series, one after
    the other in the result.
    """

    def make() -> NoisySeries:
        volume = read(of)
        hu = volume.hu
        own, correlation = measured_noise(hu, uniform_patches(hu))
        if triples:
            middles = np.linspace(0.12, 0.88, triples) * len(hu)
            hu = hu[[int(m) + k for m in middles for k in (-1, 0, 1)]]
        pixel = volume.spacing_mm[1]
        kernel = min(KERNELS, key=lambda k: abs(_correlation(k, pixel) - correlation))
        return _with_noise(of.name, hu, pixel, kernel, own, seed=len(hu))

    return _cached(cache / f"noise-{of.name}-{triples}.npz", make)


def phantom_noisy(seed: int, cache: Path, slices: int = 12) -> NoisySeries:
    """A stretch of a phantom without noise, with texture and a kernel's blur, and noise to add."""

    def make() -> NoisySeries:
        rng = np.random.default_rng((seed, 5))
        kernel = KERNELS[rng.integers(len(KERNELS))]
        pixel = float(rng.uniform(0.75, 1.1))
        phantom = thorax(
            (slices, 384, 384),
            (float(rng.uniform(1.0, 5.0)), pixel, pixel),
            seed,
            centre_z_mm=float(rng.uniform(-200, 140)),
            kernel=kernel,
            noise_hu=0.0,
            contrast=bool(rng.random() < 0.5),
        )
        return _with_noise(f"phantom-{seed}", phantom.hu, pixel, kernel, 0.0, seed)

    return _cached(cache / f"noise-phantom-{seed}.npz", make)


def _with_noise(
    name: str, hu: NDArray[np.int16], pixel: float, kernel: Kernel, own: float, seed: int
) -> NoisySeries:
    rng = np.random.default_rng(seed)
    model = NoiseModel(pixel, kernel)
    noise = np.stack([model.draw(plane.astype(np.float32), rng) for plane in hu])
    body = ndimage.binary_erosion(ndimage.uniform_filter(hu.astype(np.float32), (0, 9, 9)) > -100)
    noise /= noise[body].std() if body.any() else noise.std()
    return NoisySeries(name, hu, noise.astype(np.float16), pixel, own, kernel.name)


def _correlation(kernel: Kernel, pixel_mm: float) -> float:
    """Correlation of neighbouring pixels in filtered back-projection's noise through `kernel`."""
    f = np.fft.fftfreq(128, pixel_mm).astype(np.float32)
    radius = np.hypot(f[:, None], f[None, :])
    power = radius * kernel.transfer(radius) ** 2
    covariance = np.fft.ifft2(power).real
    return float(covariance[0, 1] / covariance[0, 0])


def _cached(path: Path, make: Callable[[], NoisySeries]) -> NoisySeries:
    if not path.exists():
        series = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            hu=series.hu,
            noise=series.noise,
            numbers=[series.pixel_mm, series.own_noise_hu],
            words=[series.name, series.kernel],
        )
    with np.load(path) as file:
        pixel, own = (float(v) for v in file["numbers"])
        name, kernel = (str(v) for v in file["words"])
        return NoisySeries(name, file["hu"], file["noise"], pixel, own, kernel)
