"""From a data set to the bytes of a PS3.10 file, and from there to the disk, durably.

It owns the invariants that every data set leaves as Explicit VR Little Endian, whatever its pixels are
compressed with, and that a file is whole under its name or is not there.
"""

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.compose import encoding as e
from dicom_node.compose.context import DicomFile
from dicom_node.compose.uids import IMPLEMENTATION_CLASS_UID
from dicom_node.errors import ComposeError, DiskFull
from dicom_node.records import ResultObject

IMPLEMENTATION_VERSION_NAME = "DICOM_NODE"
WRITERS = 8
"""Files that are written at once: syncs that wait together share one commit of the file system's journal."""


def encode(dataset: Dataset) -> bytes:
    """A data set in Explicit VR Little Endian, without file meta."""
    to = DicomBytesIO()
    to.is_little_endian = True
    to.is_implicit_VR = False
    write_dataset(to, dataset, parent_encoding="utf-8")
    return to.getvalue()


def preamble(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and file meta information (PS3.10 7.1)."""
    meta = e.raw(0x00020001, b"OB", b"\0\1")
    meta += e.string(0x00020002, b"UI", sop_class_uid)
    meta += e.string(0x00020003, b"UI", sop_instance_uid)
    meta += e.string(0x00020010, b"UI", transfer_syntax_uid)
    meta += e.string(0x00020012, b"UI", IMPLEMENTATION_CLASS_UID)
    meta += e.string(0x00020013, b"SH", IMPLEMENTATION_VERSION_NAME)
    return b"\0" * 128 + b"DICM" + e.unsigned_long(0x00020000, len(meta)) + meta


def dicom_file(
    kind: str,
    dataset: Dataset,
    *tail: bytes | memoryview,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
) -> DicomFile:
    """A file from a data set.

    Args:
        tail: encoded elements that follow those of `dataset`, whose tags are higher.
    """
    return DicomFile(
        kind=kind,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        study_uid=str(dataset.StudyInstanceUID),
        description=str(dataset.get("SeriesDescription", "")),
        parts=(
            preamble(dataset.SOPClassUID, dataset.SOPInstanceUID, transfer_syntax_uid),
            encode(dataset),
            *tail,
        ),
    )


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write(files: Sequence[DicomFile], folder: Path) -> list[ResultObject]:
    """Write files durably; when it returns, they survive a power loss.

    Args:
        folder: made if missing. File names derive from a hash, never from what a peer sent.

    Raises:
        ComposeError: two files are the same instance, or one cannot be written; then those of this call
            are removed again.
        DiskFull: likewise, for want of room.
    """
    if len({file.sop_instance_uid for file in files}) != len(files):
        raise ComposeError("two results have the same SOP Instance UID")
    tasks: list[Future[ResultObject]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(WRITERS) as pool:
            tasks = [pool.submit(_write_one, file, folder) for file in files]
        written = [task.result() for task in tasks]
        _sync_folder(folder)
    except OSError as error:
        for task in tasks:
            if task.exception() is None:
                task.result().path.unlink(missing_ok=True)
        told = f"results cannot be written to {folder}: {error.strerror}"
        raise DiskFull(told) if error.errno in FULL else ComposeError(told) from error
    return written


def _write_one(file: DicomFile, folder: Path) -> ResultObject:
    digest = hashlib.sha256()
    for part in file.parts:
        digest.update(part)
    name = hashlib.sha256(file.sop_instance_uid.encode()).hexdigest()[:24]
    path = folder / f"{file.kind}-{name}.dcm"
    temporary = path.with_suffix(".partial")
    try:
        with temporary.open("wb") as to:
            for part in file.parts:
                to.write(part)
            to.flush()
            os.fsync(to.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return ResultObject(
        path=path,
        sha256=digest.hexdigest(),
        kind=file.kind,
        sop_class_uid=file.sop_class_uid,
        sop_instance_uid=file.sop_instance_uid,
        series_uid=file.series_uid,
        study_uid=file.study_uid,
        description=file.description,
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
