"""What a data set's header says: identity, the values that routes and completeness need, and oddities.

What comes in: a data set as raw bytes and its transfer syntax. What goes out: a `Header`. It is read by
a walk over the elements that jumps over every value it does not need, so that the cost is that of the
header and not of the pixels. Owns the bounds for bytes from strangers: it works without recursion, looks
at no more than `MAX_ELEMENTS` elements and `MAX_DEPTH` nested sequences, reads no value beyond
`MAX_VALUE` bytes, and inflates and decodes nothing. It never changes or judges more than the header.
"""

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node.errors import CannotUnderstand

MAX_ELEMENTS = 1_000_000
MAX_DEPTH = 32
MAX_VALUE = 4096
UNDEFINED = 0xFFFFFFFF

_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)
_SHORT_VRS = frozenset(
    vr.encode() for vr in ("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FL", "FD", "IS", "LO", "LT")
) | {b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD

_CHARACTER_SET = 0x00080005
_SOP_CLASS = 0x00080016
_SOP_INSTANCE = 0x00080018
_PATIENT_ID = 0x00100020
_STUDY = 0x0020000D
_SERIES = 0x0020000E
_CONTRIBUTING_EQUIPMENT = 0x0018A001
_MANUFACTURER = 0x00080070
_MODEL_NAME = 0x00081090
_PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_PIXEL_GROUP = 0x7FE00000

# tag -> (name, kind)
_ATTRIBUTES: dict[int, tuple[str, str]] = {
    0x00080008: ("image_type", "texts"),
    0x00080020: ("study_date", "text"),
    0x00080050: ("accession_number", "text"),
    0x00080060: ("modality", "text"),
    0x00080070: ("manufacturer", "text"),
    0x00081030: ("study_description", "text"),
    0x0008103E: ("series_description", "text"),
    0x00081090: ("manufacturer_model_name", "text"),
    0x00100010: ("patient_name", "text"),
    0x00180015: ("body_part", "text"),
    0x00180050: ("slice_thickness", "number"),
    0x00181210: ("kernel", "text"),
    0x00200011: ("series_number", "integer"),
    0x00200013: ("instance_number", "integer"),
    0x00200032: ("position", "numbers"),
    0x00200037: ("orientation", "numbers"),
    0x00200052: ("frame_of_reference_uid", "text"),
    0x00200060: ("laterality", "text"),
    0x00200062: ("laterality", "text"),
    0x00201209: ("expected_instances", "integer"),
    0x00280008: ("frames", "integer"),
    0x00280010: ("rows", "short"),
    0x00280011: ("columns", "short"),
    0x00280030: ("pixel_spacing", "numbers"),
}
_SAMPLES_PER_PIXEL = 0x00280002
_PHOTOMETRIC = 0x00280004
_BITS_ALLOCATED = 0x00280100
_COUNTS = {"position": 3, "orientation": 6, "pixel_spacing": 2}
_WANTED = frozenset(_ATTRIBUTES) | {
    _CHARACTER_SET,
    _SOP_CLASS,
    _SOP_INSTANCE,
    _PATIENT_ID,
    _STUDY,
    _SERIES,
    _CONTRIBUTING_EQUIPMENT,
    _SAMPLES_PER_PIXEL,
    _PHOTOMETRIC,
    _BITS_ALLOCATED,
}
_UID_FORM = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")


class _Malformed(Exception):
    """The walk came to bytes that are no element."""


@dataclass(frozen=True)
class Header:
    """A data set's header.

    Attributes:
        study_uid, series_uid, sop_class_uid, sop_instance_uid, patient_id: its identity; `patient_id` is
            empty where the data set has none.
        values: raw bytes of the other wanted elements.
        little_endian: the byte order of `values`.
        pixel_bytes: length of the pixel data; None where there is none, -1 where it is encapsulated.
        damage: why the walk ended early, or None.
    """

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    patient_id: str
    values: Mapping[int, bytes]
    implicit: bool
    little_endian: bool
    pixel_bytes: int | None
    damage: str | None

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Values of JSON types under the names that routes, completeness and status use."""
        return _attributes(self)

    @cached_property
    def oddities(self) -> str | None:
        """What is wrong with this data set although it is whole; None where nothing is."""
        found = _oddities(self)
        return "; ".join(found) if found else None


def read_header(data: bytes | memoryview, transfer_syntax_uid: str) -> Header:
    """Read the header of a data set.

    Args:
        data: the data set without preamble and file meta information.
        transfer_syntax_uid: how it is encoded.

    Raises:
        CannotUnderstand: it names no study or no series, or cannot be read so far.
    """
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    little = transfer_syntax_uid != ExplicitVRBigEndian
    walk = _Walk(memoryview(data), implicit=implicit, little_endian=little)
    damage = None
    try:
        walk.run()
    except (_Malformed, struct.error) as error:
        damage = str(error) if isinstance(error, _Malformed) else "the data set ends too early"
    values = walk.values
    study, series = _uid(values.get(_STUDY)), _uid(values.get(_SERIES))
    if not study or not series:
        missing = "Study" if not study else "Series"
        reason = f"no {missing} Instance UID"
        raise CannotUnderstand(f"{reason}; {damage}" if damage else reason)
    return Header(
        study,
        series,
        _uid(values.get(_SOP_CLASS)),
        _uid(values.get(_SOP_INSTANCE)),
        _text(values.get(_PATIENT_ID, b""), _encodings(values))[:64],
        values,
        implicit,
        little,
        walk.pixel_bytes,
        damage,
    )


class _Walk:
    """One pass over the elements of a data set, or of one item of a sequence."""

    def __init__(self, data: memoryview, *, implicit: bool, little_endian: bool) -> None:
        self.values: dict[int, bytes] = {}
        self.pixel_bytes: int | None = None
        self._data = data
        self._implicit = implicit
        order = "<" if little_endian else ">"
        self._explicit_head = struct.Struct(order + "HH2sH")
        self._implicit_head = struct.Struct(order + "HHI")
        self._long = struct.Struct(order + "I")
        self._budget = MAX_ELEMENTS
        self._unknown = False

    def run(self) -> None:
        """Fill `values` and `pixel_bytes`.

        Raises:
            _Malformed: an element is damaged, or the bounds are reached; what came before is filled in.
        """
        position, end = 0, len(self._data)
        while position < end:
            if not self._implicit:
                position = self._short_elements(position)
                if position >= end:
                    return
            tag, length, start = self._element(position)
            if tag >= _PIXEL_GROUP:
                position = self._pixels(tag, length, start)
                continue
            if tag < 0x00080000:
                raise _Malformed("an element of the command or the file meta group")
            if length == UNDEFINED:
                stop = self._skip_sequence(start)
            else:
                stop = start + length
                if stop > end:
                    raise _Malformed(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) runs beyond the end")
            if tag in _WANTED and tag not in self.values:
                self.values[tag] = self._value(tag, start, stop)
            position = stop

    def _short_elements(self, position: int) -> int:
        """Take the elements of short explicit VRs that follow; where the first other thing is.

        Most of a header is such elements, and every sender waits for its walk.
        """
        data, values, unpack = self._data, self.values, self._explicit_head.unpack_from
        last, budget = len(data) - 8, self._budget
        while position <= last and budget:
            group, element, vr, length = unpack(data, position)
            stop = position + 8 + length
            if vr not in _SHORT_VRS or not 0x0008 <= group < 0x7FE0 or stop > last + 8:
                break
            tag = group << 16 | element
            if tag in _WANTED and tag not in values:
                values[tag] = bytes(data[position + 8 : min(stop, position + 8 + MAX_VALUE)])
            position = stop
            budget -= 1
        self._budget = budget
        return position

    def _value(self, tag: int, start: int, stop: int) -> bytes:
        limit = stop if tag == _CONTRIBUTING_EQUIPMENT else min(stop, start + MAX_VALUE)
        return bytes(self._data[start : min(limit, start + 64 * MAX_VALUE)])

    def _element(self, position: int, implicit: bool | None = None) -> tuple[int, int, int]:
        """Tag, length and start of the value of the element at a position."""
        self._budget -= 1
        if self._budget < 0:
            raise _Malformed("too many elements")
        self._unknown = False
        if self._implicit if implicit is None else implicit:
            group, element, length = self._implicit_head.unpack_from(self._data, position)
            return group << 16 | element, length, position + 8
        group, element, vr, length = self._explicit_head.unpack_from(self._data, position)
        tag = group << 16 | element
        if vr in _LONG_VRS:
            self._unknown = vr == b"UN"
            return tag, self._long.unpack_from(self._data, position + 8)[0], position + 12
        if group == 0xFFFE:
            return tag, self._long.unpack_from(self._data, position + 4)[0], position + 8
        if not (65 <= vr[0] <= 90 and 65 <= vr[1] <= 90):
            raise _Malformed("an element without a VR in an explicit VR data set")
        return tag, length, position + 8

    def _pixels(self, tag: int, length: int, start: int) -> int:
        if tag in _PIXELS:
            self.pixel_bytes = -1 if length == UNDEFINED else length
        if length == UNDEFINED:
            return len(self._data)
        if start + length > len(self._data):
            raise _Malformed(
                f"pixel data of {length} bytes are said, {len(self._data) - start} are there"
                if tag in _PIXELS
                else "the data set ends too early"
            )
        return start + length

    def _skip_sequence(self, position: int) -> int:
        """The position behind a sequence of undefined length, without recursion."""
        # a sequence of unknown VR is implicit inside (PS3.5 6.2.2, note 2)
        levels = [_Level(self._implicit or self._unknown)]
        while levels:
            level = levels[-1]
            tag, length, start = self._element(position, level.implicit)
            position = start
            if level.in_item:
                if tag == _ITEM_END:
                    level.in_item = False
                elif length == UNDEFINED:
                    levels.append(_Level(level.implicit or self._unknown))
                    if len(levels) > MAX_DEPTH:
                        raise _Malformed("sequences are nested too deeply")
                else:
                    position = start + length
            elif tag == _SEQUENCE_END:
                levels.pop()
            elif tag != _ITEM:
                raise _Malformed("a sequence without items")
            elif length == UNDEFINED:
                level.in_item = True
            else:
                position = start + length
        if position > len(self._data):
            raise _Malformed("a sequence runs beyond the end")
        return position


@dataclass(slots=True)
class _Level:
    """One sequence that the walk is inside of."""

    implicit: bool
    in_item: bool = False


# --- values ---------------------------------------------------------------------------------------


def _attributes(header: Header) -> dict[str, Any]:
    encodings = _encodings(header.values)
    result: dict[str, Any] = {}
    for tag, (name, kind) in _ATTRIBUTES.items():
        raw = header.values.get(tag)
        if raw is None:
            continue
        value = _convert(raw, kind, encodings, header.little_endian)
        if value not in (None, "", []):
            result.setdefault(name, value)
    if models := _contributing(header, encodings, _MODEL_NAME):
        result["contributing_model_names"] = models
    if manufacturers := _contributing(header, encodings, _MANUFACTURER):
        result["contributing_manufacturers"] = manufacturers
    result["has_pixel_data"] = header.pixel_bytes is not None
    return result


def _convert(raw: bytes, kind: str, encodings: list[str], little_endian: bool) -> Any:
    if kind == "short":
        return int.from_bytes(raw[:2], "little" if little_endian else "big") if raw else None
    text = _text(raw, encodings)
    if kind == "text":
        return text
    parts = [part.strip() for part in text.split("\\")]
    if kind == "texts":
        return [part for part in parts if part]
    numbers = [_number(part) for part in parts]
    if kind == "numbers":
        return numbers if None not in numbers else None
    if kind == "integer":
        return int(numbers[0]) if numbers[0] is not None else None
    return numbers[0]


def _contributing(header: Header, encodings: list[str], tag: int) -> list[str]:
    """A text of each item of the Contributing Equipment Sequence (PS3.3 C.12.1) that has it."""
    raw = header.values.get(_CONTRIBUTING_EQUIPMENT, b"")
    names = []
    order = "<" if header.little_endian else ">"
    position = 0
    while position + 8 <= len(raw):
        group, element, length = struct.unpack_from(order + "HHI", raw, position)
        if group << 16 | element != _ITEM:
            break
        start = position + 8
        stop = len(raw) if length == UNDEFINED else start + length
        walk = _Item(
            memoryview(raw)[start:stop],
            implicit=header.implicit,
            little_endian=header.little_endian,
        )
        consumed = walk.item()
        if name := _text(walk.values.get(tag, b""), encodings):
            names.append(name)
        position = start + consumed
    return names


class _Item(_Walk):
    """An item: as a data set, but it may end with a delimiter and hold any group."""

    def item(self) -> int:
        """Fill `values`, and tell how many bytes belonged to the item."""
        position = 0
        try:
            while position < len(self._data):
                tag, length, start = self._element(position)
                if tag == _ITEM_END:
                    return start
                stop = self._skip_sequence(start) if length == UNDEFINED else start + length
                if tag in _WANTED:
                    self.values.setdefault(tag, self._value(tag, start, stop))
                position = stop
        except (_Malformed, struct.error):
            return len(self._data)
        return position


def _oddities(header: Header) -> list[str]:
    attributes = header.attributes
    found = [header.damage] if header.damage else []
    for name, uid in (
        ("Study Instance UID", header.study_uid),
        ("Series Instance UID", header.series_uid),
        ("SOP Instance UID", header.sop_instance_uid),
    ):
        if not _UID_FORM.fullmatch(uid):
            found.append(f"{name} is not of the form of a UID")
    for name, count in _COUNTS.items():
        if name in attributes and len(attributes[name]) != count:
            found.append(f"{name} has {len(attributes[name])} values, not {count}")
    orientation = attributes.get("orientation", ())
    if len(orientation) == 6 and not _orthonormal(orientation):
        found.append("orientation is not of two orthogonal unit vectors")
    if any(value <= 0 for value in attributes.get("pixel_spacing", ())):
        found.append("pixel spacing is not positive")
    if header.pixel_bytes is not None:
        found += _pixel_oddities(header)
    elif attributes.get("rows") and attributes.get("columns"):
        found.append("an image with rows and columns, and no pixel data")
    return found


def _pixel_oddities(header: Header) -> list[str]:
    attributes = header.attributes
    rows, columns = attributes.get("rows", 0), attributes.get("columns", 0)
    if not rows or not columns:
        return ["pixel data without rows and columns"]
    if header.pixel_bytes is None or header.pixel_bytes < 0:
        return []
    order = "little" if header.little_endian else "big"
    bits, samples = (
        int.from_bytes(header.values.get(tag, b"")[:2], order)  # type: ignore[arg-type]
        for tag in (_BITS_ALLOCATED, _SAMPLES_PER_PIXEL)
    )
    frames = max(1, attributes.get("frames", 1))
    expected = (rows * columns * frames * max(1, samples) * bits + 7) // 8
    if header.pixel_bytes < expected and b"422" not in header.values.get(_PHOTOMETRIC, b""):
        return [f"pixel data of {header.pixel_bytes} bytes, {expected} are needed"]
    return []


def _orthonormal(orientation: list[float]) -> bool:
    row, column = orientation[:3], orientation[3:]
    dot = sum(a * b for a, b in zip(row, column, strict=True))
    return (
        abs(math.hypot(*row) - 1) < 0.01 and abs(math.hypot(*column) - 1) < 0.01 and abs(dot) < 0.01
    )


def _encodings(values: Mapping[int, bytes]) -> list[str]:
    declared = values.get(_CHARACTER_SET, b"").decode("ascii", "replace").strip(" \0")
    if not declared:
        return ["iso8859"]
    try:
        return list(convert_encodings([part.strip() for part in declared.split("\\")]))
    except (LookupError, ValueError):
        return ["iso8859"]


def _text(raw: bytes, encodings: list[str]) -> str:
    try:
        text = decode_bytes(raw, encodings, {0x5C, 0x0A, 0x0C, 0x0D, 0x09})
    except (LookupError, ValueError):
        text = raw.decode("latin-1")
    return text.replace("\0", "").strip()


def _uid(raw: bytes | None) -> str:
    """A UID as it was sent, without padding; empty where it is too long or no printable ASCII."""
    text = (raw or b"").rstrip(b"\0 ").decode("latin-1").strip()
    printable = text.isascii() and text.isprintable() and " " not in text
    return text if printable and len(text) <= 64 else ""


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_uncompressed(transfer_syntax_uid: str) -> bool:
    """Whether pixel data of this transfer syntax are native."""
    return not UID(transfer_syntax_uid).is_compressed
