"""CT series on disk in, volumes with their geometry out, for training and evaluation.

The folder of real data is `../shared/data` beside the repository unless `DICOM_NODE_SHARED` names
another; it may be absent. A volume comes as HU `(z, y, x)` with z growing to the head, y to the back and
x to the patient's left, whatever order and orientation the files have. This is no clinical reader: it
takes axial single-frame CT with uniform spacing and refuses the rest with a ValueError (the node's own
reader is `dicom_node.read`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

Spacing = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class CtVolume:
    """One series.

    `hu` int16 and `spacing_mm` are `(z, y, x)`; `origin_mm` is the LPS `(x, y, z)` of voxel 0.
    """

    name: str
    hu: NDArray[np.int16]
    spacing_mm: Spacing
    origin_mm: tuple[float, float, float]
    kernel: str

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices `(x, y, z, 1)` to LPS in mm."""
        affine = np.diag((*self.spacing_mm[::-1], 1.0))
        affine[:3, 3] = self.origin_mm
        return affine


def shared_data() -> Path:
    """The folder of real data, which may not exist."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("DICOM_NODE_SHARED", beside))


def read_ct(folder: Path, name: str | None = None) -> CtVolume:
    """Reads every CT instance of one series from `folder`, padding values as air.

    Raises ValueError for no CT image, oblique or mixed orientation, or positions that are not evenly spaced.
    """
    slices = [pydicom.dcmread(p, force=True) for p in sorted(folder.iterdir()) if p.is_file()]
    slices = [s for s in slices if s.get("Modality") == "CT" and "PixelData" in s]
    if not slices:
        raise ValueError(f"{folder} holds no CT image")
    turned = np.array([s.ImageOrientationPatient for s in slices], float)
    if np.abs(np.abs(turned) - (1, 0, 0, 0, 1, 0)).max() > 1e-3 or np.ptp(turned, 0).max() > 1e-3:
        raise ValueError(f"{folder}: not one axial orientation")
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    height = np.array([float(s.ImagePositionPatient[2]) for s in slices])
    steps = np.diff(height)
    if len(steps) == 0 or np.ptp(steps) > 0.05 * steps.mean() or steps.min() <= 0:
        raise ValueError(f"{folder}: slices are not evenly spaced")
    hu = np.stack([_hounsfield(s) for s in slices])
    first = slices[0]
    row_mm, column_mm = (float(v) for v in first.PixelSpacing)
    origin = np.array(first.ImagePositionPatient, float)
    for axis, direction, step in ((2, turned[0, 0], column_mm), (1, turned[0, 4], row_mm)):
        if direction < 0:
            hu = np.flip(hu, axis)
            origin[2 - axis] -= step * (hu.shape[axis] - 1)
    kernel = first.get("ConvolutionKernel", "")
    return CtVolume(
        name or folder.name,
        np.ascontiguousarray(hu),
        (float(steps.mean()), row_mm, column_mm),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        kernel if isinstance(kernel, str) else "/".join(kernel),
    )


def _hounsfield(image: pydicom.Dataset) -> NDArray[np.int16]:
    stored = image.pixel_array.astype(np.float32)
    hu = stored * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
    if "PixelPaddingValue" in image:
        hu[stored == float(image.PixelPaddingValue)] = -1024
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
