"""Elements, items and sequences in Explicit VR Little Endian, written directly (PS3.5 7.1, 7.5).

Thousands of functional groups and content items are alike but for a few values; building each as a data
set costs more than everything else together. Values in, bytes out; every length is even and defined.
"""

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from dicom_node.catalogue import Code

_ITEM = b"\xfe\xff\x00\xe0"
_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sHL")
_PADDING = {b"UI": b"\0", b"OB": b"\0"}
_LONG_FORM = (b"OB", b"OW", b"OF", b"SQ", b"UC", b"UT", b"UN")


def head(tag: int, vr: bytes, length: int) -> bytes:
    """Tag, VR and length of an element; its value follows."""
    if vr in _LONG_FORM:
        return _LONG.pack(tag >> 16, tag & 0xFFFF, vr, 0, length)
    return _SHORT.pack(tag >> 16, tag & 0xFFFF, vr, length)


def raw(tag: int, vr: bytes, value: bytes) -> bytes:
    """An element of value bytes, padded to an even length."""
    if len(value) % 2:
        value += _PADDING.get(vr, b" ")
    return head(tag, vr, len(value)) + value


def string(tag: int, vr: bytes, value: str) -> bytes:
    """A text element, UTF-8."""
    return raw(tag, vr, value.encode("utf-8"))


def strings(tag: int, vr: bytes, values: Iterable[str]) -> bytes:
    """A text element of several values."""
    return string(tag, vr, "\\".join(values))


def unsigned(tag: int, *values: int) -> bytes:
    """A US element."""
    return raw(tag, b"US", struct.pack(f"<{len(values)}H", *values))


def unsigned_long(tag: int, *values: int) -> bytes:
    """A UL element."""
    return raw(tag, b"UL", struct.pack(f"<{len(values)}L", *values))


def floats(tag: int, values: Sequence[float]) -> bytes:
    """An FL element.

    Raises:
        ValueError: more than a 16-bit length can say.
    """
    if len(values) * 4 > 0xFFFE:
        raise ValueError(f"{len(values)} values do not fit an FL element")
    return raw(tag, b"FL", struct.pack(f"<{len(values)}f", *values))


def sequence(tag: int, *items: bytes) -> bytes:
    """A sequence of encoded items."""
    content = b"".join(_ITEM + struct.pack("<L", len(item)) + item for item in items)
    return head(tag, b"SQ", len(content)) + content


@lru_cache(maxsize=512)
def code(value: Code) -> bytes:
    """The item of a code sequence; more than 16 characters go into Long Code Value."""
    short = len(value[0]) <= 16
    made = string(0x00080100, b"SH", value[0]) if short else b""
    made += string(0x00080102, b"SH", value[1]) + string(0x00080104, b"LO", value[2])
    return made if short else made + string(0x00080119, b"UC", value[0])


def reference(sop_class_uid: str, sop_instance_uid: str, frame_number: int | None = None) -> bytes:
    """Image SOP Instance Reference Macro (PS3.3 10.3)."""
    made = string(0x00081150, b"UI", sop_class_uid) + string(0x00081155, b"UI", sop_instance_uid)
    return made if frame_number is None else made + string(0x00081160, b"IS", str(frame_number))
