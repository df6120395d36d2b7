"""Content items of structured reports (PS3.3 C.17.3), each a function that returns a data set."""

from collections.abc import Iterable, Sequence
from typing import Literal

from pydicom import Dataset

from dicom_node.catalogue import Code
from dicom_node.compose.codes import UNITS, coded
from dicom_node.compose.grid import decimal, reference
from dicom_node.records import SourceFrame

Relationship = Literal[
    "CONTAINS",
    "HAS OBS CONTEXT",
    "HAS CONCEPT MOD",
    "HAS PROPERTIES",
    "INFERRED FROM",
    "SELECTED FROM",
]


def _item(
    relationship: Relationship | None,
    value_type: str,
    concept: Code | None,
    children: Iterable[Dataset],
) -> Dataset:
    item = Dataset()
    if relationship is not None:
        item.RelationshipType = relationship
    item.ValueType = value_type
    if concept is not None:
        item.ConceptNameCodeSequence = [coded(concept)]
    if found := list(children):
        item.ContentSequence = found
    return item


def container(
    relationship: Relationship | None,
    concept: Code,
    children: Sequence[Dataset],
    template: str | None = None,
) -> Dataset:
    """A CONTAINER; `template` is the identifier of its DCMR template."""
    item = _item(relationship, "CONTAINER", concept, children)
    item.ContinuityOfContent = "SEPARATE"
    if template is not None:
        used = Dataset()
        used.MappingResource = "DCMR"
        used.TemplateIdentifier = template
        item.ContentTemplateSequence = [used]
    return item


def code_item(
    relationship: Relationship, concept: Code, value: Code, children: Iterable[Dataset] = ()
) -> Dataset:
    """A CODE."""
    item = _item(relationship, "CODE", concept, children)
    item.ConceptCodeSequence = [coded(value)]
    return item


def text(relationship: Relationship, concept: Code, value: str) -> Dataset:
    """A TEXT."""
    item = _item(relationship, "TEXT", concept, ())
    item.TextValue = value
    return item


def uid(relationship: Relationship, concept: Code, value: str) -> Dataset:
    """A UIDREF."""
    item = _item(relationship, "UIDREF", concept, ())
    item.UID = value
    return item


def number(concept: Code, value: float, unit: str, children: Iterable[Dataset] = ()) -> Dataset:
    """A NUM that its parent contains; `unit` is a key of `codes.UNITS`."""
    item = _item("CONTAINS", "NUM", concept, children)
    measured = Dataset()
    measured.NumericValue = decimal(float(f"{value:.10g}"))
    measured.MeasurementUnitsCodeSequence = [coded(UNITS[unit])]
    item.MeasuredValueSequence = [measured]
    return item


def image(
    relationship: Relationship,
    concept: Code | None,
    frame: SourceFrame,
    segment: int | None = None,
) -> Dataset:
    """An IMAGE; with `segment`, a segment of a SEG."""
    item = _item(relationship, "IMAGE", concept, ())
    item.ReferencedSOPSequence = [reference(frame)]
    if segment is not None:
        item.ReferencedSOPSequence[0].ReferencedSegmentNumber = segment
    return item


def polyline(concept: Code, points: Sequence[tuple[float, float]], frame: SourceFrame) -> Dataset:
    """A closed SCOORD contour.

    Args:
        points: (column, row) in pixels; (0, 0) is the upper left corner of the upper left pixel, whose
            centre is (0.5, 0.5) (PS3.3 C.18.6.1.2). The first is repeated at the end.
        frame: the image it was drawn on.
    """
    item = _item("CONTAINS", "SCOORD", concept, [image("SELECTED FROM", None, frame)])
    item.GraphicType = "POLYLINE"
    closed = [*points, points[0]]
    item.GraphicData = [float(value) for point in closed for value in point]
    return item
