"""Planes of a multi-frame instance: its functional groups (PS3.3 C.7.6.16), frame by frame.

What comes in: the header of an Enhanced or legacy-converted instance. What goes out: one `Plane` and one
rescale for each frame. It decodes nothing.
"""

from typing import Any

from pydicom import Dataset

from dicom_node.errors import GeometryError, ReadError
from dicom_node.read.stack import Plane
from dicom_node.records import SourceFrame

_STACK_ATTRIBUTES = (
    ("FrameContentSequence", "StackID", "stack_id"),
    ("MREchoSequence", "EffectiveEchoTime", "echo_time"),
    ("MRDiffusionSequence", "DiffusionBValue", "b_value"),
    ("MRModifierSequence", "InversionTimes", "inversion_time"),
    ("FrameContentSequence", "TemporalPositionIndex", "temporal_position"),
    ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase", "cardiac_phase"),
    ("FrameContentSequence", "FrameAcquisitionNumber", "acquisition_number"),
    ("CTImageFrameTypeSequence", "FrameType", "image_type"),
    ("MRImageFrameTypeSequence", "FrameType", "image_type"),
)
"""What may tell stacks of one instance apart, the likeliest first; named as in `volume`."""


def frame_planes(header: Dataset) -> tuple[list[Plane], list[tuple[float, float]]]:
    """The plane and `(slope, intercept)` of each frame, in stored order.

    Raises:
        GeometryError: a frame has no position, orientation or spacing.
        ReadError: frames and functional groups do not match in number.
    """
    frames: list[Dataset] = list(header.get("PerFrameFunctionalGroupsSequence") or [])
    shared_items: list[Dataset] = list(header.get("SharedFunctionalGroupsSequence") or [])
    shared = shared_items[0] if shared_items else Dataset()
    if len(frames) != int(header.get("NumberOfFrames") or 1):
        raise ReadError(
            f"{len(frames)} per-frame functional groups for {header.get('NumberOfFrames')} frames"
        )
    planes, rescales = [], []
    for number, frame in enumerate(frames, start=1):
        planes.append(_plane(header, frame, shared, number))
        rescales.append(_rescale(frame, shared))
    return planes, rescales


def _group(frame: Dataset, shared: Dataset, name: str) -> Dataset | None:
    for place in (frame, shared):
        items = place.get(name)
        if items:
            item: Dataset = items[0]
            return item
    return None


def _value(frame: Dataset, shared: Dataset, group: str, attribute: str) -> Any:
    item = _group(frame, shared, group)
    value = None if item is None else item.get(attribute)
    if value is None:
        raise GeometryError(f"a frame has no {attribute}")
    return value


def _plane(header: Dataset, frame: Dataset, shared: Dataset, number: int) -> Plane:
    measures = _group(frame, shared, "PixelMeasuresSequence") or Dataset()
    thickness = measures.get("SpacingBetweenSlices") or measures.get("SliceThickness")
    stack = []
    for group, attribute, name in _STACK_ATTRIBUTES:
        item = _group(frame, shared, group)
        if item is not None and item.get(attribute) is not None:
            stack.append((name, str(item.get(attribute))))
    return Plane(
        source=SourceFrame(str(header.SOPClassUID), str(header.SOPInstanceUID), number),
        position=_floats(_value(frame, shared, "PlanePositionSequence", "ImagePositionPatient")),
        orientation=_floats(
            _value(frame, shared, "PlaneOrientationSequence", "ImageOrientationPatient")
        ),
        spacing=_floats(_value(frame, shared, "PixelMeasuresSequence", "PixelSpacing")),
        rows=int(header.Rows),
        columns=int(header.Columns),
        thickness=float(thickness) if thickness else None,
        stack=tuple(stack),
    )


def _floats(value: Any) -> tuple[float, ...]:
    return tuple(float(part) for part in value)


def _rescale(frame: Dataset, shared: Dataset) -> tuple[float, float]:
    item = _group(frame, shared, "PixelValueTransformationSequence")
    if item is None:
        return 1.0, 0.0
    slope, intercept = item.get("RescaleSlope"), item.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
