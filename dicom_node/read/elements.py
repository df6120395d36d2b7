"""A walk over a data set's top level: the few values that geometry needs, and where the pixels lie.

What comes in: the raw bytes of a data set, as they were received. What goes out: a `RawHeader`. It owns
the invariant that pixel bytes are found by walking the elements (PS3.5 7.1), never by searching for
their tag. It decodes no pixels and follows no sequence further than to its end.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from dicom_node.errors import ReadError

PIXEL_DATA = 0x7FE00010
PIXEL_TAGS = frozenset({PIXEL_DATA, 0x7FE00008, 0x7FE00009})
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
IMPLICIT = "1.2.840.10008.1.2"

_LONG_FORM = frozenset(
    (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)


@dataclass(frozen=True, slots=True)
class RawHeader:
    """Values of one data set, undecoded, and where its pixel data lies.

    Attributes:
        values: tag -> value bytes; a sequence that is present has an empty value.
        big_endian: byte order of numbers in `values` and of native pixel data.
        implicit: the data set is without VRs.
        pixel_tag: the tag of the pixel data, None where there is none.
        pixels: the pixel data's value; encapsulated fragments where `encapsulated`.
        header_length: bytes before the pixel data element.
    """

    values: dict[int, bytes]
    big_endian: bool
    implicit: bool
    pixel_tag: int | None
    pixels: memoryview
    encapsulated: bool
    header_length: int

    def text(self, tag: int) -> str:
        """A value as text; empty where it is missing."""
        return self.values.get(tag, b"").decode("latin-1").strip(" \0")

    def decimals(self, tag: int) -> tuple[float, ...]:
        """The values of a Decimal String; empty where missing.

        Raises:
            ReadError: it holds something that is not a number.
        """
        raw = self.values.get(tag, b"").strip(b" \0")
        if not raw:
            return ()
        try:
            return tuple(float(part) for part in raw.split(b"\\"))
        except ValueError as error:
            raise ReadError(f"{BaseTag(tag)} holds something that is not a number") from error

    def unsigned(self, tag: int) -> int | None:
        """The first value of a US element; None where missing."""
        raw = self.values.get(tag, b"")
        return int.from_bytes(raw[:2], "big" if self.big_endian else "little") if raw else None


class _Walker:
    """A cursor over the elements of one data set."""

    def __init__(self, data: memoryview, implicit: bool, big_endian: bool) -> None:
        self.data = data
        self.implicit = implicit
        order = ">" if big_endian else "<"
        self.tag_at = struct.Struct(order + "HH").unpack_from
        self.short_at = struct.Struct(order + "H").unpack_from
        self.long_at = struct.Struct(order + "L").unpack_from

    def element(self, at: int) -> tuple[int, bytes, int, int]:
        """Tag, VR, length and position of the value of the element at `at`."""
        group, number = self.tag_at(self.data, at)
        tag = group << 16 | number
        if self.implicit or group == 0xFFFE:
            return tag, b"", self.long_at(self.data, at + 4)[0], at + 8
        vr = bytes(self.data[at + 4 : at + 6])
        if vr in _LONG_FORM:
            return tag, vr, self.long_at(self.data, at + 8)[0], at + 12
        return tag, vr, self.short_at(self.data, at + 6)[0], at + 8

    def after_undefined(self, at: int, vr: bytes) -> int:
        """The position after a sequence of undefined length whose first item tag lies at `at`."""
        # PS3.5 6.2.2: UN of undefined length is a sequence in implicit VR
        inner = _Walker(self.data, True, False) if vr == b"UN" and not self.implicit else self
        while True:
            tag, _, length, value = inner.element(at)
            if tag == SEQUENCE_END:
                return value
            if tag != ITEM:
                raise ReadError("a sequence holds something that is no item")
            at = value + length if length != UNDEFINED else inner._after_item(value)

    def _after_item(self, at: int) -> int:
        while True:
            tag, vr, length, value = self.element(at)
            if tag == ITEM_END:
                return value
            at = value + length if length != UNDEFINED else self.after_undefined(value, vr)


def walk(data: bytes | memoryview, transfer_syntax_uid: str, wanted: Iterable[int]) -> RawHeader:
    """Read the wanted top-level values and find the pixel data.

    Args:
        data: the data set, without preamble and file meta.
        transfer_syntax_uid: how it is encoded; deflated is never accepted by the node.
        wanted: tags of values to keep.

    Raises:
        ReadError: the elements do not follow each other, or the syntax is deflated.
    """
    if transfer_syntax_uid == DEFLATED:
        raise ReadError("the data set is deflated, which this node does not accept")
    view = memoryview(data)
    implicit, big_endian = transfer_syntax_uid == IMPLICIT, transfer_syntax_uid == BIG_ENDIAN
    walker = _Walker(view, implicit, big_endian)
    keep, values = frozenset(wanted), dict[int, bytes]()
    element, at, end = walker.element, 0, len(view)
    try:
        while at + 8 <= end:
            tag, vr, length, value = element(at)
            if tag in PIXEL_TAGS:
                encapsulated = length == UNDEFINED
                stop = end if encapsulated else min(value + length, end)
                pixels = view[value:stop]
                return RawHeader(values, big_endian, implicit, tag, pixels, encapsulated, at)
            if length == UNDEFINED:
                if tag in keep:
                    values[tag] = b""
                at = walker.after_undefined(value, vr)
                continue
            if tag in keep:
                values[tag] = b"" if vr == b"SQ" else bytes(view[value : value + length])
            at = value + length
    except (struct.error, RecursionError) as error:
        raise ReadError("the data set ends in the middle of an element") from error
    if at > end:
        raise ReadError("the data set ends in the middle of an element")
    return RawHeader(values, big_endian, implicit, None, view[end:], False, end)


def spans(data: bytes | memoryview, transfer_syntax_uid: str) -> Iterator[tuple[int, int, int]]:
    """Tag, start and end of each top-level element before the pixel data.

    Raises:
        ReadError: the elements do not follow each other.
    """
    view = memoryview(data)
    walker = _Walker(view, transfer_syntax_uid == IMPLICIT, transfer_syntax_uid == BIG_ENDIAN)
    at, end = 0, len(view)
    try:
        while at + 8 <= end:
            tag, vr, length, value = walker.element(at)
            if tag in PIXEL_TAGS:
                return
            after = value + length if length != UNDEFINED else walker.after_undefined(value, vr)
            yield tag, at, after
            at = after
    except (struct.error, RecursionError) as error:
        raise ReadError("the data set ends in the middle of an element") from error


def data_set(data: bytes | memoryview, transfer_syntax_uid: str, header_length: int) -> Dataset:
    """The data set before its pixel data, as a pydicom `Dataset`."""
    return read_dataset(
        BytesIO(memoryview(data)[:header_length]),
        is_implicit_VR=transfer_syntax_uid == IMPLICIT,
        is_little_endian=transfer_syntax_uid != BIG_ENDIAN,
    )
