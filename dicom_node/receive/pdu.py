"""Protocol data units (PS3.8 section 9.3): what pynetdicom cannot do in bounded time or memory.

What comes in: heads and bodies of PDUs as bytes. What goes out: a verdict before pynetdicom decodes an
association request, and the framing of P-DATA, which is read fragment by fragment. No I/O, no state;
anything that breaks the format raises `ProtocolError`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

MAX_ASSOCIATE_PDU = 256 << 10
"""128 contexts with 30 transfer syntaxes each fit; nobody needs more."""
MAX_CONTEXTS = 128
MAX_ITEMS = 5000

PDU_HEADER = struct.Struct(">BxI")
PDV_HEADER = struct.Struct(">IBB")
_ITEM_HEADER = struct.Struct(">BxH")
_FIXED_FIELDS = 68
_CONTEXT_ITEM = 0x20
_USER_ITEM = 0x50


class PduType(IntEnum):
    """PS3.8 section 9.3.1."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    DATA = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


class AbortReason(IntEnum):
    """PS3.8 Table 9-26, for aborts by the service provider."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class ProtocolError(Exception):
    """The peer broke the protocol; the association ends with an A-ABORT of this reason."""

    def __init__(self, message: str, reason: AbortReason = AbortReason.INVALID_PARAMETER) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Rejection:
    """A-ASSOCIATE-RJ (PS3.8 Table 9-21): result, source, reason."""

    result: int
    source: int
    reason: int

    def __str__(self) -> str:
        return f"{self.result}/{self.source}/{self.reason}"


TEMPORARY_CONGESTION = Rejection(2, 3, 1)
CALLING_AE_NOT_RECOGNIZED = Rejection(1, 1, 3)
CALLED_AE_NOT_RECOGNIZED = Rejection(1, 1, 7)
APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(1, 1, 2)


def unexpected(kind: int) -> ProtocolError:
    """The error that a PDU of this type is where it does not belong."""
    if kind in PduType.__members__.values():
        return ProtocolError("a PDU that does not belong here", AbortReason.UNEXPECTED_PDU)
    return ProtocolError("a PDU of no known type", AbortReason.UNRECOGNIZED_PDU)


def check_associate_request(body: bytes) -> None:
    """Pass if an A-ASSOCIATE-RQ is small enough to be decoded, and its items lie within each other.

    pynetdicom takes about 15 us an item, and does not limit how many there are.

    Raises:
        ProtocolError: it is not.
    """
    if len(body) < _FIXED_FIELDS:
        raise ProtocolError("the association request is too short")
    contexts = items = 0
    seen = set()
    for kind, start, stop in _items(body, _FIXED_FIELDS, len(body)):
        items += 1
        inner = {_CONTEXT_ITEM: start + 4, _USER_ITEM: start}.get(kind)
        if inner is not None:
            items += sum(1 for _ in _items(body, inner, stop))
        if kind == _CONTEXT_ITEM and start < stop:
            contexts += 1
            seen.add(body[start])
    if contexts > MAX_CONTEXTS or items > MAX_ITEMS:
        raise ProtocolError("more items than an association request needs")
    if len(seen) != contexts or any(number % 2 == 0 for number in seen):
        raise ProtocolError("a presentation context ID is even, or stands twice")


def command_pdus(context_id: int, command: bytes, max_pdu: int) -> bytes:
    """P-DATA-TF PDUs that carry a command set, none longer than the peer takes."""
    largest = max(len(command), 1) if max_pdu == 0 else max(1, max_pdu - PDV_HEADER.size)
    fragments = [command[i : i + largest] for i in range(0, len(command), largest)]
    return b"".join(
        PDU_HEADER.pack(PduType.DATA, len(fragment) + PDV_HEADER.size)
        + PDV_HEADER.pack(len(fragment) + 2, context_id, 3 if i == len(fragments) - 1 else 1)
        + fragment
        for i, fragment in enumerate(fragments)
    )


def _items(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and stop of each item between two positions."""
    while position < end:
        if position + 4 > end:
            raise ProtocolError("an item is cut off")
        kind, length = _ITEM_HEADER.unpack_from(data, position)
        start, position = position + 4, position + 4 + length
        if position > end:
            raise ProtocolError("an item runs beyond the end")
        yield kind, start, position
