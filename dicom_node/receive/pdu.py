"""Protocol data units of the upper layer (PS3.8 section 9.3), as far as an acceptor needs them.

What comes in: bodies of PDUs as bytes. What goes out: frozen values, and bytes to send. Owns the bounds on
an association request. No I/O, no state; anything that breaks the format raises `ProtocolError`.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from dicom_node.compose.uids import IMPLEMENTATION_CLASS_UID
from dicom_node.receive.contexts import (
    APPLICATION_CONTEXT,
    IMPLEMENTATION_VERSION_NAME,
    AnsweredContext,
    ProposedContext,
)

MAX_ASSOCIATE_PDU = 256 << 10
"""128 contexts with 30 transfer syntaxes each fit; nobody needs more."""
MAX_CONTEXTS = 128
MAX_SYNTAXES = 128

PDU_HEADER = struct.Struct(">BxI")
PDV_HEADER = struct.Struct(">IBB")
RELEASE_RESPONSE = struct.pack(">BxI4x", 0x06, 4)


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


TEMPORARY_CONGESTION = Rejection(2, 3, 1)
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2)
CALLING_AE_NOT_RECOGNIZED = Rejection(1, 1, 3)
CALLED_AE_NOT_RECOGNIZED = Rejection(1, 1, 7)
NO_REASON_GIVEN = Rejection(1, 1, 1)
APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(1, 1, 2)
PROTOCOL_VERSION_NOT_SUPPORTED = Rejection(1, 2, 2)


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """PS3.7 D.3.3.7: what the peer says of the person or system that uses it."""

    type: int
    response_requested: bool
    primary: bytes
    secondary: bytes


@dataclass(frozen=True, slots=True)
class AssociateRequest:
    """A-ASSOCIATE-RQ."""

    protocol_version: int
    called_ae: str
    calling_ae: str
    application_context: str
    contexts: tuple[ProposedContext, ...]
    max_pdu: int
    """The longest P-DATA-TF that the peer takes; 0 is no limit."""
    implementation_class_uid: str
    implementation_version_name: str
    user_identity: UserIdentity | None
    titles: bytes
    """The fixed fields that an answer repeats as they came."""


def parse_associate_request(body: bytes) -> AssociateRequest:
    """Read the body of an A-ASSOCIATE-RQ (behind the six bytes of its head).

    Raises:
        ProtocolError: it is not one, or is larger than anybody needs.
    """
    if len(body) < 68:
        raise ProtocolError("the association request is too short")
    (version,) = struct.unpack_from(">H", body)
    application_context, contexts, user = "", list[ProposedContext](), b""
    for kind, value in _items(body, 68):
        if kind == 0x10:
            application_context = _uid(value)
        elif kind == 0x20:
            contexts.append(_proposed(value))
        elif kind == 0x50:
            user = value
    if len(contexts) > MAX_CONTEXTS:
        raise ProtocolError("more than 128 presentation contexts")
    if len({context.id for context in contexts}) != len(contexts):
        raise ProtocolError("a presentation context ID stands twice")
    info = dict(_items(user, 0))
    return AssociateRequest(
        version,
        _title(body[4:20]),
        _title(body[20:36]),
        application_context,
        tuple(contexts),
        int.from_bytes(info[0x51][:4], "big") if 0x51 in info else 0,
        _uid(info.get(0x52, b"")),
        _title(info.get(0x55, b"")),
        _user_identity(info[0x58]) if 0x58 in info else None,
        body[4:68],
    )


def associate_accept(
    request: AssociateRequest,
    answers: Sequence[AnsweredContext],
    *,
    max_pdu: int,
    identity_confirmed: bool = False,
) -> bytes:
    """An A-ASSOCIATE-AC PDU that answers a request."""
    contexts = b"".join(
        _item(0x21, bytes((a.id, 0, a.result, 0)) + _item(0x40, a.transfer_syntax.encode()))
        for a in answers
    )
    user = (
        _item(0x51, struct.pack(">I", max_pdu))
        + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
        + _item(0x55, IMPLEMENTATION_VERSION_NAME.encode())
    )
    if identity_confirmed:
        user += _item(0x59, struct.pack(">H", 0))
    body = (
        struct.pack(">H2x", 1)
        + request.titles
        + _item(0x10, APPLICATION_CONTEXT.encode())
        + contexts
        + _item(0x50, user)
    )
    return PDU_HEADER.pack(PduType.ASSOCIATE_AC, len(body)) + body


def associate_reject(rejection: Rejection) -> bytes:
    """An A-ASSOCIATE-RJ PDU."""
    fields = (rejection.result, rejection.source, rejection.reason)
    return PDU_HEADER.pack(PduType.ASSOCIATE_RJ, 4) + bytes((0, *fields))


def abort(reason: AbortReason) -> bytes:
    """An A-ABORT PDU of the service provider."""
    return PDU_HEADER.pack(PduType.ABORT, 4) + bytes((0, 0, 2, reason))


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


def _proposed(value: bytes) -> ProposedContext:
    if len(value) < 4:
        raise ProtocolError("a presentation context is too short")
    abstract_syntax, transfer_syntaxes = "", list[str]()
    for kind, content in _items(value, 4):
        if kind == 0x30:
            abstract_syntax = _uid(content)
        elif kind == 0x40:
            transfer_syntaxes.append(_uid(content))
    if len(transfer_syntaxes) > MAX_SYNTAXES:
        raise ProtocolError("too many transfer syntaxes")
    if value[0] % 2 == 0:
        raise ProtocolError("a presentation context ID is even")
    return ProposedContext(value[0], abstract_syntax, tuple(transfer_syntaxes))


def _user_identity(value: bytes) -> UserIdentity:
    if len(value) < 4:
        raise ProtocolError("the user identity is too short")
    kind, wanted, length = struct.unpack_from(">BBH", value)
    rest = value[4 + length :]
    second = int.from_bytes(rest[:2], "big")
    return UserIdentity(kind, bool(wanted), value[4 : 4 + length], rest[2 : 2 + second])


def _items(data: bytes, position: int) -> Iterator[tuple[int, bytes]]:
    end = len(data)
    while position < end:
        if position + 4 > end:
            raise ProtocolError("an item is cut off")
        kind, length = struct.unpack_from(">BxH", data, position)
        position += 4 + length
        if position > end:
            raise ProtocolError("an item runs beyond the end")
        yield kind, data[position - length : position]


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _uid(value: bytes) -> str:
    text = value.rstrip(b"\0 ")
    if len(text) > 64:
        raise ProtocolError("a UID is longer than 64 characters")
    return text.decode("latin-1")


def _title(value: bytes) -> str:
    """An AE title: 16 characters of ASCII; others are replaced, so that it can be logged and matched."""
    text = value[:16].decode("latin-1").strip(" \0")
    return "".join(c if 0x20 <= ord(c) < 0x7F and c != "\\" else "?" for c in text)
