"""Plain values that the stages hand to each other. Frozen; no behaviour beyond naming things.

Coordinates are DICOM's: LPS, millimetres (PS3.3 C.7.6.2.1.1). Arrays are indexed `(z, y, x)` =
(slice, row, column); an affine maps `(z, y, x, 1)` to the LPS position of that voxel's centre.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from dicom_node.lifecycle import DeliveryState

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SegmentAddress:
    """Where an instance's data set lies: raw bytes in a segment of the spool, as they were received."""

    segment: str
    """Name of the segment, relative to the spool; made by the node, never from what a peer sent."""
    offset: int
    length: int
    folder: str = ""
    """The number of the data folder that the segment lies in; empty where only one is known."""


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """One C-STORE that is durable: what the spool's record says, and what the header says."""

    association_id: str
    address: SegmentAddress
    sha256: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    attributes: Mapping[str, Any]
    """Header values that completeness, routes and status need; JSON types only, see `receive.header`."""
    received_at: datetime
    quarantine: str | None = None
    """Why this instance holds its series back; None where nothing is wrong with it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of an association."""

    calling_ae: str
    called_ae: str
    host: str


class Ending(Enum):
    """How an association ended. Only a release says that the sender meant to stop."""

    RELEASED = "RELEASED"
    ABORTED = "ABORTED"
    LOST = "LOST"


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """A series as the world knows it."""

    study_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class OpenSeries:
    """A series revision that still waits for its proof of completeness, with what is known of it."""

    id: int
    key: SeriesKey
    revision: int
    patient_id: str
    calling_ae: str
    called_ae: str
    attributes: Mapping[str, Any]
    """Header values that stand for the whole series."""
    instances: tuple["InstanceFacts", ...]
    sending: bool
    """An association that carried this study is still open."""
    released: bool
    """Every association that carried this series ended by release, or was made good by one that did."""
    expected: int | None = None
    """How many instances the sender says the series has, where it could be asked."""
    idle_seconds: float | None = None
    """Silence that says "complete" of this sender, where enough was learned of it."""
    return_seconds: float | None = None
    """Silence after a release in which this sender may yet come back, where that is its habit."""
    study_patient_ids: tuple[str, ...] = ()
    """Every Patient ID that series of this study name."""


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What the database knows of one instance, without its bytes."""

    id: int
    sop_instance_uid: str
    sop_class_uid: str
    sha256: str
    patient_id: str
    attributes: Mapping[str, Any]
    quarantine: str | None


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to create: one model on one series revision, for every route that asks for it."""

    model: str
    model_digest: str
    settings_digest: str
    route: str
    """The routes' names, for people."""
    destinations: tuple[str, ...]
    priority: int = 0
    members: tuple[tuple[str, int], ...] = ()
    """Name and id of the revisions that it takes together, the one that its result lies on first; none for
    a job on a single series."""


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance of a frozen job input: where its bytes lie and what they must hash to."""

    address: SegmentAddress
    sha256: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    series_uid: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job. `token` grows with every claim; an old token commits nothing."""

    job_id: int
    token: int
    owner: str


@dataclass(frozen=True, slots=True)
class EarlierResult:
    """A result that a destination has, or may have, and that a new one takes the place of."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this worker holds, with its frozen input."""

    lease: Lease
    key: SeriesKey
    revision: int
    model: str
    model_digest: str
    settings_digest: str
    route: str
    attempt: int
    instances: tuple[StoredInstance, ...]
    job_key: str
    """Stable over attempts: equal input, model, settings and run give an equal key, hence equal UIDs."""
    destinations: tuple[str, ...] = ()
    """Where the results are to go: those of every route that asked for the model."""
    supersedes: tuple[EarlierResult, ...] = ()
    """What the same model made of earlier revisions or runs and has left the node (PS3.3 C.17.2,
    Predecessor Documents Sequence)."""
    members: tuple[tuple[str, str], ...] = ()
    """Name and Series Instance UID of the series that it takes together, in order; none for a job on one."""
    report_only: str | None = None
    """Why nothing is to be computed: only the report that says so is to be made, and the job failed."""


class Outcome(Enum):
    """What a job's report says. Absence never reads as negative: there is always a report."""

    SUCCEEDED = "succeeded"
    NOT_APPLICABLE = "not applicable"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ResultObject:
    """A DICOM file that was made for a destination, fsynced, not yet known to the database."""

    path: Path
    sha256: str
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    description: str


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A result that is to go to a destination now."""

    id: int
    destination: str
    attempts: int
    state: DeliveryState
    path: str
    sha256: str
    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    patient_id: str = ""
    """Patient ID of the series that the result was made from."""
    asks: int = 0
    """How often the destination was asked in vain whether it keeps the object."""


# --- images and predictions ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RawInstance:
    """One instance as it was received: the bytes of its data set, without preamble and file meta."""

    data: bytes | memoryview
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class SourceFrame:
    """The image a slice came from: an instance, and a frame of it where it is multi-frame (from 1)."""

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None = None


@runtime_checkable
class EncodedHeaders(Protocol):
    """Headers that can also be had as they were received."""

    def elements(self, index: int) -> Iterable[tuple[int, bytes]] | None:
        """Tag and bytes of each top-level element; None if not in Explicit VR Little Endian."""
        ...


@dataclass(frozen=True, slots=True)
class Volume:
    """A 3D image in modality values (HU for CT) on the grid that was scanned.

    Attributes:
        array: `(z, y, x)` float32; slices sorted so that z grows along the normal of the image plane
            (row direction x column direction).
        affine: `(4, 4)` float64, `(z, y, x, 1)` -> LPS mm of the voxel's centre. Sheared where the gantry
            was tilted: the first column is the step from slice to slice, not always the normal.
        frames: the source of each slice, `len(frames) == array.shape[0]`.
        headers: source data sets without pixel data, read when asked for: one for each slice, or one for
            each multi-frame instance.
        rescale: per-slice `(slope, intercept)` that was applied, `(z, 2)`.
        positions: `(z, 3)`, Image Position (Patient) of each slice as its header rounds it; None where it
            is not known, then the affine tells it.
        notes: what was unusual and handled, for the report.
        even: false where slices are missing or unevenly spaced: then `positions` says where each lies, and
            the first column of the affine is their mean step.
        padding: `(z, y, x)`, where the scanner put no values (Pixel Padding Value); `array` has there what
            air has. None where there is none.
    """

    array: Float32
    affine: Float64
    frames: tuple[SourceFrame, ...]
    headers: Sequence[Dataset]
    rescale: Float64
    notes: tuple[str, ...] = ()
    positions: Float64 | None = None
    even: bool = True
    padding: Mask | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along `(z, y, x)` in mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])


@dataclass(frozen=True, slots=True)
class ProjectionImage:
    """A 2D image (CR, DX, MG, secondary capture).

    Attributes:
        array: `(y, x)` float32 in modality values; MONOCHROME1 is inverted, so that bright is dense. Where
            the detector gave no values (Pixel Padding Value) it has the least of the others.
        header: the source data set without pixel data.
        frame: the source frame.
    """

    array: Float32
    header: Dataset
    frame: SourceFrame
    notes: tuple[str, ...] = ()


Image = Volume | ProjectionImage


@dataclass(frozen=True, slots=True)
class Region:
    """One region of interest of an RT Structure Set, on a volume.

    Attributes:
        mask: `(z, y, x)`; a contour within a contour is a hole (PS3.3 C.8.8.6.3).
        left_out: contours that lie on none of the volume's slices, or are points or open lines.
    """

    number: int
    name: str
    color_rgb: tuple[int, int, int] | None
    mask: Mask
    left_out: int


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Labels on the source grid.

    Attributes:
        labels: `(z, y, x)` uint8, 0 is background, other values are the model's segments; the shape is
            the source volume's.
        uncertainty: `(z, y, x)` float32 in [0, 1], where the model gives one.
        probabilities: segment value -> `(z, y, x)` uint8, 255 x the network's probability before any
            clean-up of labels; empty unless the model's description asks for them.
    """

    labels: Labels
    uncertainty: Float32 | None = None
    notes: tuple[str, ...] = ()
    probabilities: Mapping[int, Labels] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Classification:
    """Probabilities of a model's classes, with maps of what spoke for them.

    Attributes:
        probabilities: class index -> probability in [0, 1].
        heatmaps: class index -> float32 in [0, 1] on the source grid.
        slice_scores: class index -> `(z,)` float32, where the model scores slices.
    """

    probabilities: Mapping[int, float]
    heatmaps: Mapping[int, Float32] = field(default_factory=dict)
    slice_scores: Mapping[int, Float32] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Denoised:
    """A denoised image: float32 modality values, the shape of the source."""

    array: Float32
    notes: tuple[str, ...] = ()


Prediction = Segmentation | Classification | Denoised
