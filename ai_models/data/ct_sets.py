"""Which real CT series the CT models use, by patient and scanner, and how they come onto the model's grid.

In: the folder of real data and, for phantoms, seeds. Out: `Case`s, images and stated labels on the grid
on which `ct_structures` works. Everything is cached beside the run, since the rule's labels take a minute
a chest. A patient is one group: what is held out is held out with all his series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Spacing
from numpy.typing import NDArray

from ai_models.data.ct_labels import StatedLabel, label_by_rule
from ai_models.data.series import CtVolume, read_ct, shared_data
from ai_models.phantoms import SHARP, SOFT, STANDARD, Label, Phantom, thorax

GRID_MM = (2.5, 2.5, 3.0)  # x, y, z


@dataclass(frozen=True, slots=True)
class Source:
    """A real series: where it lies, whose it is, whether contrast medium was given."""

    name: str
    path: str
    patient: str
    scanner: str
    contrast: bool


SOURCES = (
    Source("acrin-042", "ACRIN-NSCLC-FDG-PET-042/CT", "acrin-042", "GE Discovery ST", False),
    Source(
        "dx-a0001-b", "lung-pet-ct-dx/A0001_kernel-B", "dx-a0001", "Philips Brilliance 16", False
    ),
    Source(
        "dx-a0001-l", "lung-pet-ct-dx/A0001_kernel-L", "dx-a0001", "Philips Brilliance 16", False
    ),
    Source("crlm-1004", "CRLM-CT-1004", "crlm-1004", "GE LightSpeed16", True),
    Source("crlm-1006", "CRLM-CT-1006", "crlm-1006", "GE LightSpeed16", True),
    Source("sts-002", "STS_002/CT/dicom", "sts-002", "GE Discovery ST", False),
    Source("ts-dicom", "totalsegmentator/example_ct_dicom", "ts-dicom", "Siemens mCT", True),
    Source("ts-nifti", "totalsegmentator/example_ct.nii.gz", "ts-nifti", "unknown", True),
)


@dataclass(frozen=True, slots=True)
class Case:
    """`hu` int16 and `labels` uint8, both `(x, y, z)` in LPS on `GRID_MM`."""

    name: str
    hu: NDArray[np.int16]
    labels: NDArray[np.uint8]


def source(name: str) -> Source:
    """The source of that name; KeyError for none."""
    return {s.name: s for s in SOURCES}[name]


def read(of: Source) -> CtVolume:
    """The series in its own geometry. FileNotFoundError where the folder of real data is absent."""
    path = shared_data() / "ai" / of.path
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; DICOM_NODE_SHARED may name another folder")
    return read_ct(path, of.name) if path.is_dir() else _read_nifti(path, of.name)


def stated_labels(of: Source, volume: CtVolume, cache: Path) -> NDArray[np.uint8]:
    """The rule's labels of `volume` `(z, y, x)`, from the cache where they are there."""
    kept = cache / f"{of.name}-labels.npz"
    if kept.exists():
        with np.load(kept) as file:
            return np.asarray(file["labels"])
    if of.name.startswith("dx-a0001-l"):  # the same scan: the labels of its soft kernel hold
        twin = source("dx-a0001-b")
        return stated_labels(twin, read(twin), cache)
    labels = label_by_rule(volume.hu, volume.spacing_mm, contrast=of.contrast)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(kept, labels=labels)
    return labels


def real_case(of: Source, cache: Path) -> Case:
    """A real series with its stated labels on the model's grid."""
    kept = cache / f"{of.name}.npz"
    if not kept.exists():
        volume = read(of)
        labels = stated_labels(of, volume, cache)
        _keep(kept, *on_grid(volume.hu, labels, volume.affine))
    return _load(kept, of.name)


def phantom_case(seed: int, cache: Path) -> Case:
    """The phantom that `draw_phantom(seed)` makes, on the model's grid."""
    kept = cache / f"phantom-{seed}.npz"
    if not kept.exists():
        phantom = draw_phantom(seed)
        _keep(kept, *on_grid(phantom.hu, phantom_labels(phantom), phantom.affine))
    return _load(kept, f"phantom-{seed}")


def draw_phantom(seed: int) -> Phantom:
    """A random scan of a random phantom: part of the trunk, slice thickness, kernel, noise, contrast."""
    rng = np.random.default_rng((seed, 77))
    whole = rng.random() < 0.5
    length, middle = (340.0, 20.0) if whole else (rng.uniform(90, 260), rng.uniform(-320, 150))
    step = float(rng.uniform(1.5, 5.5))
    pixel = float(rng.uniform(1.1, 1.5))
    kernel = (SOFT, STANDARD, SHARP)[rng.integers(3)]
    return thorax(
        (int(length / step), int(270 / pixel), int(420 / pixel)),
        (step, pixel, pixel),
        seed,
        centre_z_mm=middle,
        kernel=kernel,
        noise_hu=kernel.noise_hu * float(rng.uniform(0.5, 1.5)),
        contrast=bool(rng.random() < 0.5),
        nodules=int(rng.integers(0, 4)) if whole else 0,
        couch=bool(rng.random() < 0.8),
    )


def phantom_labels(phantom: Phantom) -> NDArray[np.uint8]:
    """The phantom's truth in `StatedLabel`'s classes: a nodule belongs to its lung."""
    labels = phantom.labels.copy()
    x = phantom.origin_mm[0] + phantom.spacing_mm[2] * np.arange(labels.shape[2])
    lung = np.where(x > 0, StatedLabel.LEFT_LUNG, StatedLabel.RIGHT_LUNG).astype(np.uint8)
    return np.where(labels == Label.NODULE, lung, labels)


def on_grid(
    hu: NDArray[np.int16], labels: NDArray[np.uint8], affine: NDArray[np.float64]
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Image (linear) and labels (nearest) `(z, y, x)` to `(x, y, z)` on `GRID_MM`, as the bundle does it."""

    def moved(values: NDArray, mode: str) -> NDArray:
        image = torch.from_numpy(values.transpose(2, 1, 0).astype(np.float32))[None]
        tensor = MetaTensor(image, affine=torch.from_numpy(affine), meta={"space": "LPS"})
        return Spacing(pixdim=GRID_MM, mode=mode, dtype=np.float32)(tensor)[0].numpy()

    image = np.rint(moved(hu, "bilinear")).astype(np.int16)
    return image, moved(labels, "nearest").astype(np.uint8)


def held_out(patient: str) -> tuple[Sequence[Source], Sequence[Source]]:
    """Sources to train on, and the sources of the patient that is held out. ValueError for nobody's name."""
    out = [s for s in SOURCES if s.patient == patient]
    if not out:
        raise ValueError(
            f"no patient {patient!r}: {', '.join(sorted({s.patient for s in SOURCES}))}"
        )
    return [s for s in SOURCES if s.patient != patient], out


def _keep(path: Path, hu: NDArray[np.int16], labels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, hu=hu, labels=labels)


def _load(path: Path, name: str) -> Case:
    with np.load(path) as file:
        return Case(name, file["hu"], file["labels"])


def _read_nifti(path: Path, name: str) -> CtVolume:
    """A NIfTI volume (RAS) as the readers of DICOM give one (LPS, z to the head)."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    hu = np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]
    sizes = [float(v) for v in image.header.get_zooms()[:3]]
    far = image.affine @ (hu.shape[2] - 1, hu.shape[1] - 1, 0, 1)
    return CtVolume(
        name,
        np.ascontiguousarray(np.clip(hu, -1024, 3071).astype(np.int16)),
        (sizes[2], sizes[1], sizes[0]),
        (-float(far[0]), -float(far[1]), float(far[2])),
        "",
    )
