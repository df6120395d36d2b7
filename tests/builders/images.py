"""DICOM inputs for tests, of any geometry: data sets without a phantom, a file or a network.

A series is built from an array `(z, y, x)` of stored values and an affine `(z, y, x, 1)` -> LPS mm, and the
affine is all that a test needs to know the truth. UIDs are random unless given: two series never collide.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

from dicom_node.records import RawInstance

ORIENTATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "axial feet first prone": ((1, 0, 0), (0, -1, 0)),
    "axial turned": ((0, 1, 0), (-1, 0, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": ((0.8, 0.6, 0), (-0.36, 0.48, 0.8)),
}
"""Row and column directions, LPS."""


def affine(
    orientation: str | tuple[Sequence[float], Sequence[float]] = "axial",
    spacing: tuple[float, float, float] = (3.0, 0.9, 0.7),
    origin: tuple[float, float, float] = (-100.25, -50.5, 33.75),
    tilt_mm: float = 0.0,
) -> npt.NDArray[np.float64]:
    """`(z, y, x, 1)` -> LPS mm; slices step along the normal, sheared by `tilt_mm` along the columns."""
    row, column = ORIENTATIONS[orientation] if isinstance(orientation, str) else orientation
    r, c = np.array(row, dtype=np.float64), np.array(column, dtype=np.float64)
    made = np.eye(4)
    made[:3, 0] = np.cross(r, c) * spacing[0] + c * tilt_mm
    made[:3, 1] = c * spacing[1]
    made[:3, 2] = r * spacing[2]
    made[:3, 3] = origin
    return made


def pattern(shape: tuple[int, int, int] = (6, 20, 24)) -> npt.NDArray[np.int16]:
    """Stored values that differ in every voxel and look different from each of the 48 sides."""
    z, y, x = np.indices(shape)
    return (z * 97 + y * 11 + x * 3 + (z * y) % 7 + 100).astype(np.int16)


def labels(shape: tuple[int, int, int] = (6, 20, 24)) -> npt.NDArray[np.uint8]:
    """Three labels that tell every axis and sign: blocks of unlike size, none central, none symmetric."""
    made = np.zeros(shape, dtype=np.uint8)
    depth, rows, columns = shape
    made[1 : depth - 2, 2 : rows // 2, 3 : columns // 3] = 1
    made[2:, rows // 2 + 2 : rows - 1, columns // 2 :] = 2
    made[0, 1:3, columns - 5 : columns - 2] = 3
    return made


def decimal(value: float) -> str:
    """A Decimal String of at most 16 characters."""
    return f"{value:.8g}"


@dataclass
class Study:
    """The identity that the instances of a study share."""

    patient_id: str = "P-1"
    patient_name: str = "Müller^Ångström"
    study_uid: str = ""
    frame_of_reference_uid: str = ""

    def __post_init__(self) -> None:
        self.study_uid = self.study_uid or generate_uid()
        self.frame_of_reference_uid = self.frame_of_reference_uid or generate_uid()


def base(study: Study, series_uid: str, sop_class: str, modality: str) -> Dataset:
    """Patient, study, series and equipment."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SOPClassUID, made.SOPInstanceUID = sop_class, generate_uid()
    made.PatientID, made.PatientName = study.patient_id, study.patient_name
    made.PatientBirthDate, made.PatientSex, made.PatientAge = "19500102", "F", "070Y"
    made.StudyInstanceUID, made.SeriesInstanceUID = study.study_uid, series_uid
    made.StudyDate, made.StudyTime, made.StudyID = "20260105", "101500", "S1"
    made.SeriesDate, made.SeriesTime = "20260105", "101600"
    made.ContentDate, made.ContentTime = "20260105", "101700"
    made.AcquisitionDate, made.AcquisitionTime = "20260105", "101600"
    made.AccessionNumber, made.ReferringPhysicianName = "A1", "Doe^Jane"
    made.Modality, made.SeriesNumber, made.SeriesDescription = modality, 4, "Thorax"
    made.BodyPartExamined, made.PatientPosition = "CHEST", "HFS"
    made.Manufacturer, made.ManufacturerModelName = "Builder", "Model 1"
    made.DeviceSerialNumber, made.SoftwareVersions = "123", "1.0"
    made.FrameOfReferenceUID, made.PositionReferenceIndicator = study.frame_of_reference_uid, ""
    return made


def pixel_module(to: Dataset, stored: npt.NDArray[np.integer]) -> None:
    """Image Pixel module of native pixels."""
    bits = stored.dtype.itemsize * 8
    to.SamplesPerPixel, to.PhotometricInterpretation = 1, "MONOCHROME2"
    to.Rows, to.Columns = stored.shape[-2:]
    to.BitsAllocated, to.BitsStored, to.HighBit = bits, bits, bits - 1
    to.PixelRepresentation = int(stored.dtype.kind == "i")
    to.PixelData = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<")).tobytes()


def series(
    stored: npt.NDArray[np.integer],
    grid: npt.NDArray[np.float64],
    *,
    modality: str = "CT",
    slope: float = 1.0,
    intercept: float = -1024.0,
    study: Study | None = None,
    series_uid: str = "",
) -> list[Dataset]:
    """Single-frame CT, MR or PET instances, one a slice, in slice order; instance numbers run backwards."""
    study, series_uid = study or Study(), series_uid or generate_uid()
    classes = {
        "CT": CTImageStorage,
        "MR": MRImageStorage,
        "PT": PositronEmissionTomographyImageStorage,
    }
    lengths = np.linalg.norm(grid[:3, :3], axis=0)
    normal = np.cross(grid[:3, 2] / lengths[2], grid[:3, 1] / lengths[1])
    made = []
    for z, plane in enumerate(stored):
        one = base(study, series_uid, classes[modality], modality)
        one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        one.InstanceNumber, one.AcquisitionNumber = len(stored) - z, 1
        one.ImagePositionPatient = [decimal(v) for v in grid[:3, 3] + z * grid[:3, 0]]
        one.ImageOrientationPatient = [
            decimal(v) for v in (*(grid[:3, 2] / lengths[2]), *(grid[:3, 1] / lengths[1]))
        ]
        one.PixelSpacing = [decimal(lengths[1]), decimal(lengths[2])]
        one.SliceThickness = decimal(abs(float(grid[:3, 0] @ normal)))
        one.RescaleSlope, one.RescaleIntercept = decimal(slope), decimal(intercept)
        _acquisition(one, modality)
        pixel_module(one, plane)
        made.append(one)
    return made


def _acquisition(to: Dataset, modality: str) -> None:
    if modality == "CT":
        to.RescaleType, to.KVP, to.ConvolutionKernel = "HU", "120", "B"
    elif modality == "MR":
        to.ScanningSequence, to.SequenceVariant, to.ScanOptions = "SE", "NONE", ""
        to.MRAcquisitionType, to.EchoTime, to.RepetitionTime, to.EchoTrainLength = (
            "3D",
            "10",
            "500",
            1,
        )
    else:
        to.Units, to.DecayCorrection, to.SeriesType = "BQML", "NONE", ["STATIC", "IMAGE"]
        to.CountsSource, to.NumberOfSlices, to.CorrectedImage = "EMISSION", 1, "ATTN"


def enhanced_ct(
    stored: npt.NDArray[np.integer],
    grid: npt.NDArray[np.float64],
    *,
    order: Sequence[int] | None = None,
    slopes: Sequence[float] | None = None,
    study: Study | None = None,
) -> Dataset:
    """One Enhanced CT instance; frames are stored in `order` (default: slice order)."""
    order = list(range(len(stored)) if order is None else order)
    made = base(study or Study(), generate_uid(), EnhancedCTImageStorage, "CT")
    made.ImageType, made.InstanceNumber = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], 1
    made.NumberOfFrames = len(order)
    lengths = np.linalg.norm(grid[:3, :3], axis=0)
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [decimal(lengths[1]), decimal(lengths[2])]
    measures.SliceThickness = decimal(lengths[0])
    orientation.ImageOrientationPatient = [
        decimal(v) for v in (*(grid[:3, 2] / lengths[2]), *(grid[:3, 1] / lengths[1]))
    ]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    made.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index, z in enumerate(order):
        frame, content, position, transform = Dataset(), Dataset(), Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber = "1", z + 1
        content.DimensionIndexValues = [1, z + 1]
        position.ImagePositionPatient = [decimal(v) for v in grid[:3, 3] + z * grid[:3, 0]]
        transform.RescaleSlope = decimal(slopes[index] if slopes else 1.0)
        transform.RescaleIntercept, transform.RescaleType = "-1024", "HU"
        frame.FrameContentSequence, frame.PlanePositionSequence = [content], [position]
        frame.PixelValueTransformationSequence = [transform]
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = frames
    pixel_module(made, stored[order])
    return made


def radiograph(
    stored: npt.NDArray[np.integer],
    *,
    sop_class: str = DigitalXRayImageStorageForPresentation,
    modality: str = "DX",
    photometric: str = "MONOCHROME2",
) -> Dataset:
    """A projection image."""
    made = base(Study(), generate_uid(), sop_class, modality)
    del made.FrameOfReferenceUID, made.PositionReferenceIndicator
    made.ImageType, made.InstanceNumber = ["ORIGINAL", "PRIMARY"], 1
    made.PixelSpacing = made.ImagerPixelSpacing = ["0.15", "0.15"]
    pixel_module(made, stored)
    made.PhotometricInterpretation = photometric
    return made


def encode(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set's bytes, as they would travel, without preamble and file meta."""
    to = DicomBytesIO()
    to.is_little_endian = syntax != ExplicitVRBigEndian
    to.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(to, dataset)
    return to.getvalue()


def raw(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> RawInstance:
    """A data set as a received instance; native pixels are given in the byte order of `syntax`."""
    if syntax == ExplicitVRBigEndian:
        dataset = deepcopy(dataset)
        words = np.frombuffer(dataset.PixelData, dtype=f"<u{dataset.BitsAllocated // 8}")
        dataset.PixelData = words.astype(words.dtype.newbyteorder(">")).tobytes()
    return RawInstance(
        encode(dataset, syntax), syntax, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)
    )


def compressed(dataset: Dataset, syntax: str, frames: Sequence[bytes]) -> RawInstance:
    """A data set whose pixels are the given compressed frames."""
    dataset = deepcopy(dataset)
    dataset.PixelData = encapsulate(list(frames))
    dataset["PixelData"].is_undefined_length = True
    return raw(dataset, syntax)


def part10(instance: RawInstance) -> bytes:
    """The instance as a PS3.10 file, for tools that read files."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = instance.transfer_syntax_uid
    meta.MediaStorageSOPClassUID = instance.sop_class_uid
    meta.MediaStorageSOPInstanceUID = instance.sop_instance_uid
    to = BytesIO()
    write_file_meta_info(to, meta, enforce_standard=True)
    return b"\0" * 128 + b"DICM" + to.getvalue() + bytes(instance.data)
