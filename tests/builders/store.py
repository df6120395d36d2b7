"""What a receiver would report and a worker would make, without a network, a spool or a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

from dicom_node.records import (
    Ending,
    InstanceFacts,
    NewJob,
    OpenSeries,
    Peer,
    ReceivedInstance,
    ResultObject,
    SegmentAddress,
    SeriesKey,
)
from dicom_node.store.assembly import Assembly
from dicom_node.store.intake import Intake

BEGINNING = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
SCANNER = Peer("CT1", "DICOM_NODE", "10.1.2.3")
LENGTH = 1000


def slice_attributes(number: int, spacing: float = 2.0) -> dict[str, Any]:
    """Header values of the slice at `number` of an axial CT stack."""
    return {
        "modality": "CT",
        "instance_number": number,
        "position": [0.0, 0.0, number * spacing],
        "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "image_type": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "body_part": "CHEST",
    }


def received(
    association: str,
    series: str = "1.2.3.1",
    number: int = 0,
    *,
    study: str = "1.2.3",
    patient: str = "P1",
    content: str = "",
    at: float = 0.0,
    quarantine: str | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> ReceivedInstance:
    """Slice `number` of a series; `content` tells two versions of one SOP instance apart."""
    uid = f"{series}.{number}"
    return ReceivedInstance(
        association_id=association,
        address=SegmentAddress(f"{association}.segment", number * LENGTH, LENGTH),
        sha256=hashlib.sha256(f"{uid} {content}".encode()).hexdigest(),
        sop_class_uid=CTImageStorage,
        sop_instance_uid=uid,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        study_uid=study,
        series_uid=series,
        patient_id=patient,
        attributes=slice_attributes(number) if attributes is None else attributes,
        received_at=BEGINNING + timedelta(seconds=at),
        quarantine=quarantine,
    )


def send(
    intake: Intake,
    association: str,
    instances: Sequence[ReceivedInstance],
    ending: Ending | None = Ending.RELEASED,
    peer: Peer = SCANNER,
    at: float = 0.0,
) -> None:
    """A whole association; without an ending it stays open."""
    opened = BEGINNING + timedelta(seconds=at)
    intake.association_opened(association, peer, f"{association}.segment", opened)
    intake.index(association, instances, LENGTH * len(instances))
    if ending is not None:
        intake.association_ended(association, ending)


def new_job(model: str = "m", **values: Any) -> NewJob:
    """A job for one destination."""
    job = NewJob(model, "d" * 64, "s" * 64, "route", ("pacs",))
    return replace(job, **values)


def queued_series(
    intake: Intake, assembly: Assembly, series: str = "1.2.3.1", *jobs: NewJob, slices: int = 3
) -> int:
    """A series that came, was judged and has jobs; returns its id."""
    association = f"a-{series}"
    send(intake, association, [received(association, series, n) for n in range(slices)])
    revision = next(one for one in assembly.waiting() if _is(assembly, one.id, series))
    assert assembly.stable(revision.id, revision.instances, "complete")
    assert assembly.queue(revision.id, jobs or (new_job(),), "route")
    return revision.id


def _is(assembly: Assembly, series_id: int, series: str) -> bool:
    return assembly.load(series_id).key.series_uid == series


def result_file(
    folder: Path,
    *,
    uid: str | None = None,
    study: str = "1.2.3",
    series: str = "1.2.3.9",
    patient: str = "P1",
    kind: str = "sr",
    sop_class: str = ComprehensiveSRStorage,
    transfer_syntax: str = ExplicitVRLittleEndian,
    padding: int = 0,
) -> ResultObject:
    """A small result that a PACS takes: a DICOM file that lies in `folder`."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = transfer_syntax
    data_set.SOPClassUID = sop_class
    data_set.SOPInstanceUID = uid or generate_uid()
    data_set.StudyInstanceUID = study
    data_set.SeriesInstanceUID = series
    data_set.PatientID = patient
    data_set.PatientName = "Phantom"
    data_set.Modality = "SR"
    data_set.SeriesNumber = 9101
    data_set.InstanceNumber = 1
    if padding:
        data_set.add_new(0x00990010, "LO", "PADDING")
        data_set.add_new(0x00991001, "OB", b"\0" * padding)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{data_set.SOPInstanceUID}.dcm"
    data_set.save_as(path, enforce_file_format=True)
    return ResultObject(
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        kind=kind,
        sop_class_uid=sop_class,
        sop_instance_uid=str(data_set.SOPInstanceUID),
        series_uid=series,
        study_uid=study,
        description="AI test",
    )


def open_series(
    instances: Sequence[InstanceFacts] | None = None, slices: int = 5, **values: Any
) -> OpenSeries:
    """A series as the assembler sees it."""
    facts = tuple(facts_of(n) for n in range(slices)) if instances is None else tuple(instances)
    series = OpenSeries(
        id=1,
        key=SeriesKey("1.2.3", "1.2.3.1"),
        revision=1,
        patient_id="P1",
        calling_ae="CT1",
        called_ae="DICOM_NODE",
        attributes=slice_attributes(0),
        instances=facts,
        sending=False,
        released=True,
        study_patient_ids=("P1",),
    )
    return replace(series, **values)


def facts_of(number: int, spacing: float = 2.0, **values: Any) -> InstanceFacts:
    """What the database knows of slice `number`."""
    facts = InstanceFacts(
        id=number,
        sop_instance_uid=f"1.2.3.1.{number}",
        sop_class_uid=CTImageStorage,
        sha256=str(number),
        patient_id="P1",
        attributes=slice_attributes(number, spacing),
        quarantine=None,
    )
    return replace(facts, **values)
