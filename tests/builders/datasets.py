"""Data sets as a scanner would send them, and files of real DICOM taken apart."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset, config, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

__all__ = [
    "ExplicitVRBigEndian",
    "ExplicitVRLittleEndian",
    "ImplicitVRLittleEndian",
    "SentFile",
    "ct_slice",
    "encoded",
    "sent_file",
]


def ct_slice(
    study: str | None = None,
    series: str | None = None,
    number: int = 1,
    shape: tuple[int, int] = (16, 16),
) -> Dataset:
    """A CT slice of `(rows, columns)`, as small as it may be, with what routes and geometry need."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyDate = "20260102"
    ds.Modality = "CT"
    ds.Manufacturer = "Builder"
    ds.SeriesDescription = "Größe"
    ds.PatientName = "Doe^Jane"
    ds.PatientID = "P1"
    ds.BodyPartExamined = "CHEST"
    ds.SliceThickness = "2.0"
    ds.StudyInstanceUID = study or generate_uid()
    ds.SeriesInstanceUID = series or generate_uid()
    ds.SeriesNumber = 3
    ds.InstanceNumber = number
    ds.ImagePositionPatient = [-8.0, -8.0, 2.0 * number]
    ds.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = shape
    ds.PixelSpacing = [1.0, 1.0]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 0
    pixels = np.arange(shape[0] * shape[1], dtype=np.uint16) + number
    ds.PixelData = pixels.astype("<u2").tobytes()
    return ds


def encoded(ds: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The data set's bytes without preamble and file meta information."""
    syntax = UID(transfer_syntax)
    buffer = DicomIO(BytesIO())
    buffer.is_implicit_VR = syntax.is_implicit_VR
    buffer.is_little_endian = syntax.is_little_endian
    write_dataset(buffer, ds)
    return buffer.parent.getvalue()  # type: ignore[no-any-return,attr-defined]


@dataclass(frozen=True)
class SentFile:
    """A DICOM file as a sender that changes nothing would send it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes


def sent_file(path: Path) -> SentFile | None:
    """Take a file apart; None where it is no DICOM file, or says not how it is encoded."""
    with path.open("rb") as file:
        try:
            read_preamble(file, force=False)
            mode = config.settings.reading_validation_mode
            config.settings.reading_validation_mode = config.IGNORE
            try:
                meta: FileMetaDataset = _read_file_meta_info(file)
            finally:
                config.settings.reading_validation_mode = mode
            data = file.read()
            ds = dcmread(path, specific_tags=["SOPClassUID", "SOPInstanceUID"])
            return SentFile(
                path,
                # senders take the command's UIDs from the data set
                str(ds.get("SOPClassUID") or meta.MediaStorageSOPClassUID),
                str(ds.get("SOPInstanceUID") or meta.MediaStorageSOPInstanceUID),
                str(meta.TransferSyntaxUID),
                data,
            )
        except Exception:
            return None
