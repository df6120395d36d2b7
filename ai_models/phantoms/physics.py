"""What a scanner does to a patient: blur of the kernel and the slice, texture, correlated noise.

In: noise-free HU `(z, y, x)` and spacing. Out: HU as such a scanner would have sent it. The noise is made
slice by slice in the frequency domain: filtered back-projection gives a noise power spectrum that rises
like a ramp and falls with the kernel's apodisation (Riederer, Phys Med Biol 23:446, 1978), so `NPS(f) ~ f
* MTF(f)^2`. Its strength grows towards the body's middle. Two-dimensional only: slices of a scan made
with thin collimation share little noise, and no claim about dose is made here (`dose.py` does
projections).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A reconstruction kernel: `name` for ConvolutionKernel, `cutoff_per_mm` where its transfer is 1/e."""

    name: str
    cutoff_per_mm: float
    noise_hu: float

    def transfer(self, frequency: Floats) -> Floats:
        """Modulation transfer at `frequency` in cycles per mm."""
        return np.exp(-((frequency / self.cutoff_per_mm) ** 2)).astype(np.float32)


SOFT = Kernel("SOFT", 0.42, 12.0)
STANDARD = Kernel("STANDARD", 0.62, 20.0)
SHARP = Kernel("SHARP", 0.95, 48.0)
KERNELS = {kernel.name: kernel for kernel in (SOFT, STANDARD, SHARP)}


def scan(
    hu: Floats,
    spacing_mm: tuple[float, float, float],
    kernel: Kernel,
    *,
    noise_hu: float,
    rng: np.random.Generator,
) -> Floats:
    """The image of `hu` through `kernel`, with tissue texture and noise of `noise_hu` in the body's middle.

    Shapes `(z, y, x)`, spacing in mm in that order. `hu` is not changed.
    """
    frequency = _frequencies(hu.shape[1:], spacing_mm[1:])
    transfer = kernel.transfer(frequency)
    noise_shape = np.sqrt(frequency) * transfer
    noise_shape /= np.sqrt(np.mean(_full_power(noise_shape, hu.shape[2])))
    texture_shape = 1 / (1 + (frequency / 0.03) ** 2) ** np.float32(0.75)
    texture_shape /= np.sqrt(np.mean(_full_power(texture_shape, hu.shape[2])))
    image = _slice_profile(hu)
    previous = np.zeros(hu.shape[1:], np.float32)
    keep = np.float32(
        np.exp(-spacing_mm[0] / 6.0)
    )  # texture is the patient's: it lasts from slice to slice
    for index in range(len(hu)):
        white = rng.standard_normal((2, *hu.shape[1:]), dtype=np.float32)
        spectra = fft.rfft2(np.stack((image[index], white[0], white[1])))
        spectra *= np.stack((transfer, noise_shape, texture_shape))
        blurred, noise, fresh = fft.irfft2(spectra, s=hu.shape[1:]).astype(np.float32)
        previous = keep * previous + np.sqrt(1 - keep * keep) * fresh
        blurred += previous * _texture_hu(blurred)
        image[index] = blurred + noise * np.float32(noise_hu) * _noise_map(blurred)
    return image


def _slice_profile(hu: Floats) -> Floats:
    if len(hu) < 3:
        return hu.copy()
    out = np.float32(0.76) * hu
    out[1:-1] += np.float32(0.12) * (hu[:-2] + hu[2:])
    out[0] += np.float32(0.24) * hu[1]
    out[-1] += np.float32(0.24) * hu[-2]
    return out


def _texture_hu(hu: Floats) -> Floats:
    """Standard deviation of tissue's own texture: coarse in lung, fine elsewhere, none in air."""
    return np.interp(hu, (-960, -880, -700, -200, 0, 100, 300), (0, 22, 30, 12, 6, 6, 25)).astype(
        np.float32
    )


def _noise_map(hu: Floats) -> Floats:
    """Relative noise: more where the rays are weakened more, that is, in the middle of the body."""
    coarse = ndimage.zoom((hu[::8, ::8] > -300).astype(np.float32), 0.25, order=1)
    path = ndimage.gaussian_filter(coarse, 3.0)
    scale = (hu.shape[0] / path.shape[0], hu.shape[1] / path.shape[1])
    wide = ndimage.zoom(path, scale, order=1, grid_mode=True, mode="nearest")
    return np.float32(0.55) + np.float32(0.45) * wide / max(float(path.max()), 1e-3)


def _frequencies(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Floats:
    rows = fft.fftfreq(shape[0], spacing_mm[0])[:, None]
    columns = fft.rfftfreq(shape[1], spacing_mm[1])[None, :]
    return np.hypot(rows, columns).astype(np.float32)


def _full_power(half: Floats, columns: int) -> Floats:
    """Power on the full frequency plane of a real filter given on rfft2's half plane."""
    mirrored = half[:, 1 : columns - half.shape[1] + 1]
    return np.concatenate((half, mirrored), axis=1) ** 2
