"""Command sets of DIMSE messages (PS3.7 section 6.3 and Annex E), as far as the listener needs them.

What comes in: a command set as bytes (always implicit VR little endian). What goes out: a frozen `Command`,
or a response as bytes. Pure; anything that is no command set raises `ProtocolError`.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from dicom_node.errors import DimseStatus
from dicom_node.receive.pdu import ProtocolError

MAX_COMMAND_SET = 64 << 10
NO_DATA_SET = 0x0101

_ELEMENT = struct.Struct("<HHI")
_GROUP_LENGTH = 0x0000
_AFFECTED_CLASS = 0x0002
_REQUESTED_CLASS = 0x0003
_FIELD = 0x0100
_MESSAGE_ID = 0x0110
_RESPONDED_ID = 0x0120
_DATA_SET_TYPE = 0x0800
_STATUS = 0x0900
_ERROR_COMMENT = 0x0902
_AFFECTED_INSTANCE = 0x1000
_REQUESTED_INSTANCE = 0x1001


class CommandField(IntEnum):
    """PS3.7 Table E.1-1."""

    C_STORE_RQ = 0x0001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    N_EVENT_REPORT_RQ = 0x0100
    N_GET_RQ = 0x0110
    N_SET_RQ = 0x0120
    N_ACTION_RQ = 0x0130
    N_CREATE_RQ = 0x0140
    N_DELETE_RQ = 0x0150
    C_CANCEL_RQ = 0x0FFF


_RESPONSE = 0x8000


@dataclass(frozen=True, slots=True)
class Command:
    """A request."""

    field: CommandField
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


def parse_command(data: bytes) -> Command:
    """Read a command set.

    Raises:
        ProtocolError: it is none, or it is a response, which nobody asked for.
    """
    values = _elements(data)
    field = _short(values, _FIELD)
    try:
        known = CommandField(field)
    except ValueError:
        raise ProtocolError("a command that is no request of the standard") from None
    message_id = 0 if known is CommandField.C_CANCEL_RQ else _short(values, _MESSAGE_ID)
    return Command(
        known,
        message_id,
        _uid(values.get(_AFFECTED_CLASS) or values.get(_REQUESTED_CLASS, b"")),
        _uid(values.get(_AFFECTED_INSTANCE) or values.get(_REQUESTED_INSTANCE, b"")),
        _short(values, _DATA_SET_TYPE) != NO_DATA_SET,
    )


def response(command: Command, status: DimseStatus, comment: str = "") -> bytes:
    """The command set of the response to a request.

    Args:
        command: the request.
        status: the answer.
        comment: Error Comment, at most 64 characters, for people; without patient data.
    """
    elements = [(_FIELD, struct.pack("<H", command.field | _RESPONSE))]
    if command.sop_class_uid:
        elements.append((_AFFECTED_CLASS, _padded(command.sop_class_uid, b"\0")))
    elements.append((_RESPONDED_ID, struct.pack("<H", command.message_id)))
    elements.append((_DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)))
    elements.append((_STATUS, struct.pack("<H", status)))
    if comment:
        text = comment.encode("ascii", "replace").decode()[:64].replace("\\", "/")
        elements.append((_ERROR_COMMENT, _padded(text, b" ")))
    if command.sop_instance_uid:
        elements.append((_AFFECTED_INSTANCE, _padded(command.sop_instance_uid, b"\0")))
    body = b"".join(_ELEMENT.pack(0, tag, len(value)) + value for tag, value in sorted(elements))
    return _ELEMENT.pack(0, _GROUP_LENGTH, 4) + struct.pack("<I", len(body)) + body


def _elements(data: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    position, end = 0, len(data)
    while position < end:
        if position + 8 > end:
            raise ProtocolError("a command element is cut off")
        group, element, length = _ELEMENT.unpack_from(data, position)
        position += 8 + length
        if group != 0 or position > end:
            raise ProtocolError("the command set holds what is no command element")
        values[element] = data[position - length : position]
    return values


def _short(values: dict[int, bytes], tag: int) -> int:
    value = values.get(tag, b"")
    if len(value) != 2:
        raise ProtocolError(f"the command set lacks (0000,{tag:04X})")
    return int.from_bytes(value, "little")


def _uid(value: bytes) -> str:
    text = value.rstrip(b"\0 ").decode("latin-1").strip()
    if len(text) > 64 or " " in text or not (text.isascii() and text.isprintable()):
        raise ProtocolError("a UID of the command is none")
    return text


def _padded(text: str, pad: bytes) -> bytes:
    raw = text.encode("ascii")
    return raw + pad if len(raw) % 2 else raw
