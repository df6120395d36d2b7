"""A phantom in, the CT Image Storage instances out that a scanner would send of it.

Each file is a PS3.10 file of one slice with the modules of the CT Image IOD (PS3.3 A.3): patient, study,
series, frame of reference, equipment, image plane, pixel, CT image. UIDs are `2.25.<UUIDv5>` of the seed, so
the same call writes the same study. No real person, institution or device is named.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from ai_models.phantoms.thorax import Phantom

RESCALE_INTERCEPT = -1024
_NAMESPACE = uuid.UUID("6f2b9a0e-52a5-5d0e-9f0b-6f7a31c7c2d4")


@dataclass(frozen=True, slots=True)
class Orientation:
    """How slices are cut: array axes for (slice, row, column) and whether each runs backwards."""

    axes: tuple[int, int, int]
    backwards: tuple[bool, bool, bool]
    patient_position: str
    image_type: tuple[str, ...]


_ORIGINAL = ("ORIGINAL", "PRIMARY", "AXIAL")
_REFORMAT = ("DERIVED", "SECONDARY", "REFORMATTED")
ORIENTATIONS = {
    "axial": Orientation((0, 1, 2), (False, False, False), "HFS", _ORIGINAL),
    "axial-prone": Orientation((0, 1, 2), (False, True, True), "HFP", _ORIGINAL),
    "coronal": Orientation((1, 0, 2), (False, True, False), "HFS", _REFORMAT),
    "sagittal": Orientation((2, 0, 1), (False, True, False), "HFS", _REFORMAT),
}


def derived_uid(*name: object) -> UID:
    """`2.25.<UUIDv5>` of the given name: the same name gives the same UID (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, name))).int}")


def write_ct_series(
    phantom: Phantom,
    folder: Path,
    *,
    seed: int = 0,
    patient_id: str = "PHANTOM-0001",
    patient_name: str = "Phantom^Thorax",
    patient_sex: str = "O",
    accession_number: str = "A0001",
    study_description: str = "CT thorax (procedural phantom)",
    series_description: str | None = None,
    series_number: int = 2,
    body_part: str = "CHEST",
    study_date: str = "20260105",
    orientation: str = "axial",
    bits_stored: int = 12,
    transfer_syntax: UID = ExplicitVRLittleEndian,
) -> list[Path]:
    """Writes `phantom` into `folder` (made if missing), one file a slice, and returns the paths in slice
    order.

    Calls with the same `seed` and `patient_id` share study and frame of reference; `series_number` and
    `orientation` tell their series apart. `orientation` is a key of `ORIENTATIONS`; `bits_stored` 12 or 16,
    unsigned; the transfer syntax must be an uncompressed little-endian one. Slices run from foot to head when
    axial, yet instance number 1 is the topmost one, as scanners number a chest. Raises ValueError else.
    """
    if orientation not in ORIENTATIONS:
        raise ValueError(f"orientation {orientation!r} is none of {', '.join(ORIENTATIONS)}")
    if bits_stored not in (12, 16):
        raise ValueError(f"bits stored {bits_stored} is neither 12 nor 16")
    if transfer_syntax.is_compressed or not transfer_syntax.is_little_endian:
        raise ValueError(
            f"transfer syntax {transfer_syntax.name} is not uncompressed little endian"
        )
    plan = ORIENTATIONS[orientation]
    key = (seed, patient_id)
    series_uid = derived_uid(*key, "series", series_number, orientation)
    template = Dataset()
    _patient_and_study(template, key, patient_id, patient_name, patient_sex, study_date)
    template.AccessionNumber = accession_number
    template.StudyDescription = study_description
    template.SeriesInstanceUID = series_uid
    template.SeriesNumber = series_number
    template.SeriesDescription = series_description or f"Thorax {phantom.kernel.name.lower()}"
    template.BodyPartExamined = body_part
    _equipment_and_acquisition(template, phantom, plan)
    stored, first, step = _oriented(phantom, plan, template, bits_stored)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, pixels in enumerate(stored):
        template.ImagePositionPatient = [_decimal(value) for value in first + step * index]
        template.SliceLocation = _decimal(float((first + step * index)[np.argmax(np.abs(step))]))
        template.InstanceNumber = len(stored) - index
        template.SOPInstanceUID = derived_uid(series_uid, template.InstanceNumber)
        template.PixelData = np.ascontiguousarray(pixels).tobytes()
        path = folder / f"{template.InstanceNumber:04d}.dcm"
        _write(template, path, transfer_syntax)
        paths.append(path)
    return paths


def _patient_and_study(
    to: Dataset, key: tuple[object, ...], patient_id: str, name: str, sex: str, date: str
) -> None:
    to.SpecificCharacterSet = "ISO_IR 192"
    to.PatientID, to.PatientName, to.PatientSex = patient_id, name, sex
    to.PatientBirthDate, to.PatientAge = "19700101", "056Y"
    to.PatientPosition = "HFS"
    to.StudyInstanceUID = derived_uid(*key, "study")
    to.StudyID = "1"
    to.ReferringPhysicianName = ""
    to.FrameOfReferenceUID = derived_uid(*key, "frame of reference")
    to.PositionReferenceIndicator = ""
    for moment in ("Study", "Series", "Acquisition", "Content"):
        setattr(to, f"{moment}Date", date)
        setattr(to, f"{moment}Time", "101500")


def _equipment_and_acquisition(to: Dataset, phantom: Phantom, plan: Orientation) -> None:
    to.SOPClassUID = CTImageStorage
    to.Modality = "CT"
    to.Manufacturer = "Procedural phantom"
    to.ManufacturerModelName = "Thorax"
    to.DeviceSerialNumber = "0"
    to.SoftwareVersions = "1"
    to.InstitutionName = "Phantom hospital"
    to.ImageType = list(plan.image_type)
    to.PatientPosition = plan.patient_position
    to.AcquisitionNumber = 1
    to.KVP = 120
    to.XRayTubeCurrent, to.ExposureTime, to.Exposure = 200, 500, 100
    to.ConvolutionKernel = phantom.kernel.name
    to.GantryDetectorTilt = 0
    to.ReconstructionDiameter = f"{phantom.hu.shape[2] * phantom.spacing_mm[2]:.3f}"
    if phantom.contrast:
        to.ContrastBolusAgent = "Phantom contrast medium"
    to.BurnedInAnnotation = "NO"
    to.LossyImageCompression = "00"


def _oriented(
    phantom: Phantom, plan: Orientation, to: Dataset, bits_stored: int
) -> tuple[NDArray[np.uint16], NDArray[np.float64], NDArray[np.float64]]:
    """Fills plane and pixel modules; returns slices, the first position and the step between them."""
    flips = tuple(slice(None, None, -1 if back else 1) for back in plan.backwards)
    hu = phantom.hu.transpose(plan.axes)[flips]
    steps = [np.zeros(3) for _ in range(3)]
    origin = np.array(phantom.origin_mm)
    for i, (axis, back) in enumerate(zip(plan.axes, plan.backwards, strict=True)):
        direction = np.zeros(3)
        direction[2 - axis] = -1.0 if back else 1.0  # array axes are (z, y, x), LPS is (x, y, z)
        steps[i] = direction * phantom.spacing_mm[axis]
        if back:
            origin[2 - axis] += phantom.spacing_mm[axis] * (phantom.hu.shape[axis] - 1)
    thickness, row_mm, column_mm = (phantom.spacing_mm[axis] for axis in plan.axes)
    to.ImageOrientationPatient = [*(steps[2] / column_mm), *(steps[1] / row_mm)]
    to.PixelSpacing = [_decimal(row_mm), _decimal(column_mm)]
    to.SliceThickness = _decimal(thickness)
    to.SpacingBetweenSlices = _decimal(thickness)
    to.SamplesPerPixel, to.PhotometricInterpretation = 1, "MONOCHROME2"
    to.Rows, to.Columns = hu.shape[1:]
    to.BitsAllocated, to.BitsStored, to.HighBit = 16, bits_stored, bits_stored - 1
    to.PixelRepresentation = 0
    to.RescaleIntercept, to.RescaleSlope, to.RescaleType = RESCALE_INTERCEPT, 1, "HU"
    to.WindowCenter, to.WindowWidth = [40, -600], [400, 1500]
    to.WindowCenterWidthExplanation = ["soft tissue", "lung"]
    stored = np.clip(hu.astype(np.int32) - RESCALE_INTERCEPT, 0, 2**bits_stored - 1)
    return stored.astype(np.uint16), origin, steps[0]


def _write(dataset: Dataset, path: Path, transfer_syntax: UID) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer_syntax
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta = meta
    dcmwrite(path, dataset, enforce_file_format=True)


def _decimal(value: float) -> str:
    """A Decimal String of at most 16 characters (PS3.5 6.2)."""
    return f"{value:.6f}".rstrip("0").rstrip(".") or "0"
