"""Content items of structured reports (PS3.3 C.17.3), each a function that returns it encoded.

Values in, bytes of a sequence item out; which item may stand where is the report's matter.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from dicom_node.catalogue import Code
from dicom_node.compose import encoding as e
from dicom_node.compose.codes import UNITS
from dicom_node.compose.grid import decimal
from dicom_node.records import SourceFrame

Relationship = Literal[
    "CONTAINS",
    "HAS OBS CONTEXT",
    "HAS CONCEPT MOD",
    "HAS PROPERTIES",
    "INFERRED FROM",
    "SELECTED FROM",
]
CONTENT_SEQUENCE = 0x0040A730


def _start(relationship: Relationship, value_type: str, concept: Code | None) -> bytes:
    made = e.string(0x0040A010, b"CS", relationship) + e.string(0x0040A040, b"CS", value_type)
    return made if concept is None else made + e.sequence(0x0040A043, e.code(concept))


def _children(children: Iterable[bytes]) -> bytes:
    found = tuple(children)
    return e.sequence(CONTENT_SEQUENCE, *found) if found else b""


def template(identifier: str) -> bytes:
    """Content Template Sequence: a template of the DICOM Content Mapping Resource."""
    used = e.string(0x00080105, b"CS", "DCMR") + e.string(0x0040DB00, b"CS", identifier)
    return e.sequence(0x0040A504, used)


def container(
    relationship: Relationship,
    concept: Code,
    children: Sequence[bytes],
    template_id: str | None = None,
) -> bytes:
    """A CONTAINER; `template_id` is the identifier of its DCMR template."""
    made = _start(relationship, "CONTAINER", concept)
    made += e.string(0x0040A050, b"CS", "SEPARATE")
    if template_id is not None:
        made += template(template_id)
    return made + _children(children)


def code_item(
    relationship: Relationship, concept: Code, value: Code, children: Iterable[bytes] = ()
) -> bytes:
    """A CODE."""
    made = _start(relationship, "CODE", concept) + e.sequence(0x0040A168, e.code(value))
    return made + _children(children)


def text(relationship: Relationship, concept: Code, value: str) -> bytes:
    """A TEXT."""
    return _start(relationship, "TEXT", concept) + e.string(0x0040A160, b"UT", value)


def uid(relationship: Relationship, concept: Code, value: str) -> bytes:
    """A UIDREF."""
    return _start(relationship, "UIDREF", concept) + e.string(0x0040A124, b"UI", value)


def number(concept: Code, value: float, unit: str, children: Iterable[bytes] = ()) -> bytes:
    """A NUM that its parent contains; `unit` is a key of `codes.UNITS`."""
    measured = e.sequence(0x004008EA, e.code(UNITS[unit]))
    measured += e.string(0x0040A30A, b"DS", decimal(float(f"{value:.10g}")))
    made = _start("CONTAINS", "NUM", concept) + e.sequence(0x0040A300, measured)
    return made + _children(children)


def image(
    relationship: Relationship,
    concept: Code | None,
    frame: SourceFrame,
    segment: int | None = None,
) -> bytes:
    """An IMAGE; with `segment`, a segment of a SEG."""
    referenced = e.reference(frame.sop_class_uid, frame.sop_instance_uid, frame.frame_number)
    if segment is not None:
        referenced += e.unsigned(0x0062000B, segment)
    return e.sequence(0x00081199, referenced) + _start(relationship, "IMAGE", concept)


def composite(relationship: Relationship, referred: SourceFrame) -> bytes:
    """A COMPOSITE without a name: an object that is no image."""
    item = e.reference(referred.sop_class_uid, referred.sop_instance_uid)
    return e.sequence(0x00081199, item) + _start(relationship, "COMPOSITE", None)


def polyline(concept: Code, points: Sequence[tuple[float, float]], frame: SourceFrame) -> bytes:
    """A closed SCOORD contour.

    Args:
        points: (column, row) in pixels; (0, 0) is the upper left corner of the upper left pixel, whose
            centre is (0.5, 0.5) (PS3.3 C.18.6.1.2). The first is repeated at the end.
        frame: the image it was drawn on.
    """
    closed = [*points, points[0]]
    made = _start("CONTAINS", "SCOORD", concept)
    made += _children([image("SELECTED FROM", None, frame)])
    made += e.floats(0x00700022, [value for point in closed for value in point])
    return made + e.string(0x00700023, b"CS", "POLYLINE")
