"""What every composer is given, and what it hands back. Values only."""

from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from typing import Literal

import pydicom
from pydicom import Dataset

from dicom_node.catalogue import ModelDescription
from dicom_node.records import EarlierResult

DEFAULT_KINDS = frozenset({"seg", "sr", "denoised", "heatmap"})
ALL_KINDS = DEFAULT_KINDS | {
    "secondary_capture",
    "presentation_state",
    "key_objects",
    "rejection",
    "uncertainty",
}


@dataclass(frozen=True, slots=True)
class ComposeContext:
    """Who made the prediction, when, and what the destinations take.

    Attributes:
        job_key: UIDs derive from it, so that a re-run makes the same objects.
        created_at: the only clock that a composer sees.
        kinds: which kinds of result are wanted (`settings.ResultKind`).
        segmentation: how a SEG is encoded, from the destination's profile.
        supersedes: results that the new ones take the place of; the report names its predecessors.
    """

    model: ModelDescription
    job_key: str
    node_version: str
    created_at: datetime
    not_for_clinical_use: bool = True
    device_serial: str = "0"
    kinds: frozenset[str] = DEFAULT_KINDS
    segmentation: Literal["binary", "labelmap", "fractional"] = "binary"
    supersedes: tuple[EarlierResult, ...] = ()

    @property
    def local_time(self) -> datetime:
        """`created_at` in this machine's zone, as DICOM's dates and times without a zone are meant."""
        return self.created_at.astimezone() if self.created_at.tzinfo else self.created_at

    @property
    def mark(self) -> str | None:
        """What every result must say while it is not cleared; None when the switch is off."""
        return "Not for clinical use" if self.not_for_clinical_use else None


@dataclass(frozen=True, slots=True)
class DicomFile:
    """A PS3.10 file that was made, not yet written.

    Attributes:
        parts: the file's bytes in pieces, in order; large pieces are not copied together.
    """

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    description: str
    parts: tuple[bytes | memoryview, ...]

    @property
    def content(self) -> bytes:
        """The whole file."""
        return b"".join(self.parts)

    def dataset(self) -> Dataset:
        """The file, read back."""
        return pydicom.dcmread(BytesIO(self.content))
