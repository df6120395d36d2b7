"""Which region of the body each slice of a CT shows: real series with boundaries read off, and
phantoms.

The rule, from the head down: NECK above the lungs' apices (shoulders and neck); CHEST from the
highest slice with lung to the slice above the dome of the liver; ABDOMEN from the highest slice
that shows the liver to the slice above the iliac crests; PELVIS from the highest slice that shows
an iliac bone down. The boundaries of the real series below were read off the images once, in lung
and bone windows, by one reader who is no radiologist; where TotalSegmentator's own labels of its
example exist (hips), they say where the pelvis begins. A boundary is good to one slice. In: the
shared folder. Out: `RegionSeries`, slices from the feet to the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ai_models.data.series import read_ct, shared_data
from ai_models.phantoms.anatomy import LUNGS, Habitus
from ai_models.phantoms.thorax import thorax


class Region(IntEnum):
    """Classes of a slice."""

    NECK = 0
    CHEST = 1
    ABDOMEN = 2
    PELVIS = 3


@dataclass(frozen=True, slots=True)
class RegionSeries:
    """`hu` int16 `(z, y, x)`; `regions` `(z,)` of `Region`; what has one `patient` is held out together."""

    patient: str
    hu: NDArray[np.int16]
    regions: NDArray[np.int64]
    spacing_mm: float


@dataclass(frozen=True, slots=True)
class _Source:
    patient: str
    folder: str
    first_abdomen: int  # lowest slices are slice 0; each number is the first slice of its region
    first_chest: int
    first_neck: int


SOURCES = (
    _Source("ACRIN-042", "ACRIN-NSCLC-FDG-PET-042/CT", 0, 52, 114),
    _Source("Lung-Dx-A0001", "lung-pet-ct-dx/A0001_kernel-B", 0, 17, 56),
    _Source("Lung-Dx-A0001", "lung-pet-ct-dx/A0001_kernel-L", 0, 17, 56),
    _Source("CRLM-1004", "CRLM-CT-1004", 0, 35, 41),
    _Source("CRLM-1006", "CRLM-CT-1006", 2, 42, 51),
    _Source("TotalSegmentator", "totalsegmentator/example_ct_dicom", 0, 20, 20),
)
HIPS = (77, 78)


def real_series() -> list[RegionSeries]:
    """Every real series that can be labelled, six of CT scanners and one resampled volume; five patients.

    The two examples of TotalSegmentator may show one patient, so they count as one.

    Raises:
        FileNotFoundError: the shared folder is not there.
    """
    root = shared_data() / "ai"
    found = [from_dicom(root, source) for source in SOURCES]
    return [*found, _from_nifti(root / "totalsegmentator")]


def from_dicom(root: Path, source: _Source) -> RegionSeries:
    volume = read_ct(root / source.folder)
    starts = [(source.first_abdomen, Region.ABDOMEN), (source.first_chest, Region.CHEST)]
    regions = np.full(len(volume.hu), int(Region.PELVIS))
    for first, region in [*starts, (source.first_neck, Region.NECK)]:
        regions[first:] = region
    return RegionSeries(source.patient, volume.hu, regions, volume.spacing_mm[0])


def _from_nifti(folder: Path) -> RegionSeries:
    image = nib.as_closest_canonical(nib.load(folder / "example_ct.nii.gz"))
    labels = nib.as_closest_canonical(nib.load(folder / "example_seg_fast_force_split.nii.gz"))
    hu = np.asarray(image.dataobj)[::-1, ::-1].transpose(2, 1, 0)
    hips = np.isin(np.asarray(labels.dataobj), HIPS).any((0, 1))
    regions = np.full(len(hu), int(Region.ABDOMEN))
    regions[: np.flatnonzero(hips).max() + 1] = Region.PELVIS
    side = max(hu.shape[1:])  # square, as a scanner's images are
    edges = [(0, 0), *(((side - n) // 2, side - n - (side - n) // 2) for n in hu.shape[1:])]
    hu = np.pad(hu, edges, constant_values=-1024)
    hu = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return RegionSeries("TotalSegmentator", hu, regions, float(image.header.get_zooms()[2]))


def phantom_series(seed: int, shape: tuple[int, int] = (128, 128)) -> RegionSeries:
    """A phantom from the pelvis to the neck by the same rule, 5 mm a slice."""
    contrast = bool(seed % 2)
    z_mm, step = (-415.0, 275.0), 5.0
    count = round((z_mm[1] - z_mm[0]) / step)
    habitus = Habitus.draw(np.random.default_rng(seed), contrast)
    field = 400.0 + 100.0 * float(np.random.default_rng([seed, 1]).random())
    spacing = (step, field / shape[0], field / shape[1])
    phantom = thorax((count, *shape), spacing, seed, centre_z_mm=sum(z_mm) / 2, contrast=contrast)
    z = (phantom.origin_mm[2] + step * np.arange(count)) / habitus.scale[2]
    lung = np.isin(phantom.labels, LUNGS).any((1, 2))
    regions = np.full(count, int(Region.PELVIS))
    regions[z > -294.0] = Region.ABDOMEN
    regions[z > habitus.dome_right - 4] = Region.CHEST
    regions[np.flatnonzero(lung).max() + 1 :] = Region.NECK
    return RegionSeries(f"phantom-{seed}", phantom.hu, regions, step)
