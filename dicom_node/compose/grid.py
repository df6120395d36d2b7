"""The source's grid, in the attributes by which a derived object repeats it.

What comes in: a `Volume`. What goes out: spacing, orientation and position values that are the source's own
decimals wherever the header gives them, and references to the source frames.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from dicom_node.compose.codes import SOURCE_IMAGE, coded
from dicom_node.compose.source import numbers
from dicom_node.records import SourceFrame, Volume


def decimal(number: float) -> str:
    """A Decimal String: the shortest that says the number, at most 16 characters (PS3.5 6.2)."""
    text = repr(float(number))
    text = text.removesuffix(".0")
    if len(text) <= 16:
        return text
    for digits in range(15, 0, -1):
        text = f"{number:.{digits}g}"
        if len(text) <= 16:
            return text
    return text


@dataclass(frozen=True, slots=True)
class Grid:
    """Decimal strings of the grid's planes."""

    orientation: tuple[str, ...]
    pixel_spacing: tuple[str, ...]
    slice_thickness: str
    between_slices: str | None
    """None where slices are not evenly spaced."""
    positions: tuple[tuple[str, ...], ...]
    """One for each slice, in the volume's order."""


def _shared(header: Dataset, group: str) -> Dataset:
    """A functional group of a multi-frame header, or the header itself."""
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        items = header.get(name)
        if items and items[0].get(group):
            found: Dataset = items[0].get(group)[0]
            return found
    return header


def grid_of(volume: Volume) -> Grid:
    """The grid of a volume, in its source's own decimals."""
    header = volume.headers[0]
    columns = volume.affine[:3, :3]
    orientation = numbers(_shared(header, "PlaneOrientationSequence"), "ImageOrientationPatient")
    measures = _shared(header, "PixelMeasuresSequence")
    spacing = numbers(measures, "PixelSpacing") or volume.spacing[1:]
    if not orientation:
        orientation = (*(columns[:, 2] / volume.spacing[2]), *(columns[:, 1] / volume.spacing[1]))
    normal = np.cross(columns[:, 2], columns[:, 1])
    between = abs(float(columns[:, 0] @ normal / np.linalg.norm(normal)))
    positions = volume.positions
    if positions is None:
        steps = np.arange(volume.array.shape[0])[:, None]
        positions = volume.affine[:3, 3] + steps * columns[:, 0]
    thickness = numbers(measures, "SliceThickness")
    return Grid(
        tuple(decimal(one) for one in orientation),
        tuple(decimal(one) for one in spacing),
        decimal(thickness[0]) if thickness else decimal(round(between, 6)),
        decimal(round(between, 6)) if volume.even else None,
        tuple(tuple(decimal(one) for one in row) for row in positions),
    )


def reference(frame: SourceFrame) -> Dataset:
    """Image SOP Instance Reference Macro (PS3.3 10.3)."""
    item = Dataset()
    item.ReferencedSOPClassUID = frame.sop_class_uid
    item.ReferencedSOPInstanceUID = frame.sop_instance_uid
    if frame.frame_number is not None:
        item.ReferencedFrameNumber = frame.frame_number
    return item


def source_reference(frame: SourceFrame) -> Dataset:
    """An item of Source Image Sequence (PS3.3 C.7.6.16.2.6)."""
    item = reference(frame)
    item.PurposeOfReferenceCodeSequence = [coded(SOURCE_IMAGE)]
    item.SpatialLocationsPreserved = "YES"
    return item


def instances(frames: Iterable[SourceFrame]) -> list[tuple[str, str]]:
    """SOP class and instance of each source instance once, in order."""
    return list(dict.fromkeys((frame.sop_class_uid, frame.sop_instance_uid) for frame in frames))


def referenced_series(series_uid: str, frames: Iterable[SourceFrame]) -> Dataset:
    """An item of Referenced Series Sequence (Common Instance Reference, PS3.3 C.12.2)."""
    item = Dataset()
    item.SeriesInstanceUID = series_uid
    item.ReferencedInstanceSequence = [
        reference(SourceFrame(*instance)) for instance in instances(frames)
    ]
    return item


def frame_of_reference(source: Dataset, to: Dataset) -> None:
    """Frame of Reference module: the same space as the source."""
    to.FrameOfReferenceUID = source.FrameOfReferenceUID
    to.PositionReferenceIndicator = source.get("PositionReferenceIndicator") or ""
